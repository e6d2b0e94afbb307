package stream

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/carillon-rt/carillon/services/internal/secure"
	"github.com/carillon-rt/carillon/services/internal/secure/securetest"
)

// presents gives an external server a certificate of an authority, and has it demand
// one of clients.
func (x *external) presents(a *securetest.Authority, lasts time.Duration) {
	x.t.Helper()
	var files secure.Server
	files.CertFile, files.KeyFile = a.Files(x.t, x.t.TempDir(), securetest.Options{NotAfter: time.Now().Add(lasts)})
	files.ClientCAFile = a.Write(x.t, filepath.Join(x.t.TempDir(), "clients.pem"))
	options := server.TLSConfigOpts{CertFile: files.CertFile, KeyFile: files.KeyFile, CaFile: files.ClientCAFile, Verify: true}
	config, err := server.GenTLSConfig(&options)
	if err != nil {
		x.t.Fatal(err)
	}
	x.options.TLS, x.options.TLSVerify, x.options.TLSConfig, x.options.TLSTimeout = true, true, config, patience.Seconds()
}

func TestTLSFollowsItsFiles(t *testing.T) {
	t.Parallel()
	first, second, strange := securetest.NewAuthority(t), securetest.NewAuthority(t), securetest.NewAuthority(t)
	dir := t.TempDir()
	c := secure.Client{CAFile: first.Write(t, filepath.Join(dir, "ca.pem"))}
	c.CertFile, c.KeyFile = first.Files(t, dir, securetest.Options{Name: "edge"})
	tlsOf := func(c secure.Client) Options {
		t.Helper()
		current, err := secure.NewClient(c, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return Options{TLS: current}
	}
	x := newExternal(t)
	x.presents(first, time.Hour)
	x.start()
	o := tlsOf(c)
	o.URL, o.Receiver = x.url(), newRecorder()
	s := readyStore(t, o)
	presented := func(atLeast time.Duration) {
		t.Helper()
		eventually(t, "every connection was shown the server's certificate", func() bool {
			return !slices.ContainsFunc(s.Stats().Connections, func(c ConnectionStats) bool {
				left := time.Until(c.CertificateEnd)
				return left < atLeast || left > atLeast+time.Hour
			})
		})
	}
	presented(time.Minute)

	refused := func(name string, c secure.Client, why func(told string) bool) {
		bad := tlsOf(c)
		bad.URL = x.url()
		s := openStore(t, bad)
		eventually(t, name+": refused", func() bool {
			err := s.Ready()
			return err != nil && why(err.Error())
		})
	}
	for name, c := range map[string]secure.Client{
		"another authority": {CAFile: strange.Write(t, filepath.Join(t.TempDir(), "ca.pem")), CertFile: c.CertFile, KeyFile: c.KeyFile},
		"another name":      {CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile, ServerName: "example.org"},
	} {
		refused(name, c, func(told string) bool { return strings.Contains(told, "tls: ") })
	}
	// In TLS 1.3 a client may write before the server has seen its certificate: whether it reads
	// why it was refused, or finds the connection gone, is chance. The server knows.
	refused("no client certificate", secure.Client{CAFile: c.CAFile}, func(told string) bool {
		return strings.Contains(told, "not connected: ") && len(x.log.lines("client didn't provide a certificate")) > 0
	})

	// Authorities and certificates are replaced while the server is away.
	x.stop()
	eventually(t, "not connected", func() bool { return s.Ready() != nil })
	second.Write(t, c.CAFile)
	second.Files(t, dir, securetest.Options{Name: "edge"})
	x.presents(second, 2*time.Hour)
	x.start()
	eventually(t, "connected with the new files", func() bool { return s.Ready() == nil })
	presented(time.Hour + time.Minute)
}

func TestTLSIsDemanded(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	current, err := secure.NewClient(secure.Client{Enabled: true}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s := openStore(t, Options{URL: x.url(), TLS: current})
	eventually(t, "refused", func() bool {
		err := s.Ready()
		return err != nil && strings.Contains(err.Error(), "secure connection not available")
	})
}

func TestPasswordIsAskedForAtEachConnection(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.options.Username, x.options.Password = "edge", "first"
	x.start()
	var password atomic.Value
	password.Store("first")
	login := Login{User: "edge", Password: func() (string, error) {
		if password.Load() == "" {
			return "", errors.New("nats.password: there is no such file")
		}
		return password.Load().(string), nil
	}}
	s := readyStore(t, Options{URL: x.url(), Login: login})
	x.stop()
	eventually(t, "not connected", func() bool { return s.Ready() != nil })
	password.Store("")
	x.options.Password = "second"
	x.start()
	eventually(t, "refused", func() bool {
		err := s.Ready()
		return err != nil && strings.Contains(strings.ToLower(err.Error()), "authorization")
	})
	password.Store("second")
	eventually(t, "connected with the new password", func() bool { return s.Ready() == nil })
}

// credentialed gives an external server an operator, and returns the credentials of a
// user of an account with JetStream.
func (x *external) credentialed() (credentials []byte) {
	x.t.Helper()
	must := func(err error) {
		x.t.Helper()
		if err != nil {
			x.t.Fatal(err)
		}
	}
	pair := func(create func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string) {
		x.t.Helper()
		key, err := create()
		must(err)
		public, err := key.PublicKey()
		must(err)
		return key, public
	}
	operator, operatorID := pair(nkeys.CreateOperator)
	account, accountID := pair(nkeys.CreateAccount)
	_, systemID := pair(nkeys.CreateAccount)
	user, userID := pair(nkeys.CreateUser)
	claims := jwt.NewAccountClaims(accountID)
	claims.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
	accountJWT, err := claims.Encode(operator)
	must(err)
	userJWT, err := jwt.NewUserClaims(userID).Encode(account)
	must(err)
	seed, err := user.Seed()
	must(err)
	credentials, err = jwt.FormatUserConfig(userJWT, seed)
	must(err)
	resolver := &server.MemAccResolver{}
	must(resolver.Store(accountID, accountJWT))
	systemJWT, err := jwt.NewAccountClaims(systemID).Encode(operator)
	must(err)
	must(resolver.Store(systemID, systemJWT))
	x.options.TrustedOperators = []*jwt.OperatorClaims{jwt.NewOperatorClaims(operatorID)}
	x.options.AccountResolver, x.options.SystemAccount = resolver, systemID
	return credentials
}

func TestCredentialsFileIsReadAtEachConnection(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	name := filepath.Join(t.TempDir(), "edge.creds")
	write := func(credentials []byte) {
		t.Helper()
		if err := os.WriteFile(name, credentials, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(x.credentialed())
	x.start()
	s := readyStore(t, Options{URL: x.url(), Login: Login{CredentialsFile: name}})
	x.stop()
	eventually(t, "not connected", func() bool { return s.Ready() != nil })
	credentials := x.credentialed()
	x.start()
	eventually(t, "refused", func() bool {
		err := s.Ready()
		return err != nil && strings.Contains(strings.ToLower(err.Error()), "authorization")
	})
	write(credentials)
	eventually(t, "connected with the new credentials", func() bool { return s.Ready() == nil })
}
