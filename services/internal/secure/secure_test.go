package secure_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/test/bufconn"

	"github.com/carillon-rt/carillon/services/internal/secure"
	"github.com/carillon-rt/carillon/services/internal/secure/securetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// handshake connects a client to a server in memory and returns what each has of it.
func handshake(t *testing.T, server, client *tls.Config) (served, dialled tls.ConnectionState, err error) {
	t.Helper()
	a, b := buffered(t) // both may be writing when one refuses the other
	at, to := tls.Server(a, server), tls.Client(b, client)
	var wg sync.WaitGroup
	var serverErr error
	wg.Go(func() {
		if serverErr = at.Handshake(); serverErr == nil {
			_, serverErr = at.Write([]byte("x")) // with TLS 1.3 a client is done before it is refused
		}
		if serverErr != nil {
			_ = a.Close()
		}
	})
	_, clientErr := io.ReadFull(to, make([]byte, 1))
	if clientErr != nil {
		_ = b.Close()
	}
	wg.Wait()
	served, dialled = at.ConnectionState(), to.ConnectionState()
	_, _ = a.Close(), b.Close()
	return served, dialled, errors.Join(serverErr, clientErr)
}

// buffered returns both ends of a connection in memory.
func buffered(t *testing.T) (_, _ net.Conn) {
	t.Helper()
	listener := bufconn.Listen(64 << 10)
	accepted := make(chan net.Conn, 1)
	go func() {
		a, err := listener.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- a
	}()
	b, err := listener.Dial()
	if err != nil {
		t.Fatal(err)
	}
	return <-accepted, b
}

// bubble has a clock of its own, in which a handshake finds that a second has passed.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Parallel()
	synctest.Test(t, f)
}

func newServer(t *testing.T, s secure.Server, log io.Writer, protocols ...string) *tls.Config {
	t.Helper()
	c, err := secure.NewServer(s, slog.New(slog.NewTextHandler(log, nil)), protocols...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newClient(t *testing.T, c secure.Client) func() *tls.Config {
	t.Helper()
	current, err := secure.NewClient(c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return current
}

func TestACertificateIsReplacedWithoutARestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		authority := securetest.NewAuthority(t)
		dir := t.TempDir()
		certFile, keyFile := authority.Files(t, dir, securetest.Options{})
		var log bytes.Buffer
		server := newServer(t, secure.Server{CertFile: certFile, KeyFile: keyFile}, &log)
		client := &tls.Config{RootCAs: authority.Pool(), ServerName: "localhost"}
		serial := func() string {
			t.Helper()
			_, dialled, err := handshake(t, server, client)
			if err != nil {
				t.Fatal(err)
			}
			return dialled.PeerCertificates[0].SerialNumber.String()
		}
		first := serial()

		authority.Files(t, dir, securetest.Options{})
		if serial() != first {
			t.Error("the files are read at every handshake")
		}
		time.Sleep(time.Second)
		second := serial()
		if second == first {
			t.Error("the new certificate is not used")
		}

		// Whatever is wrong with the next one: the last stays, and that is said once.
		if err := os.WriteFile(certFile, []byte("no certificate"), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			time.Sleep(time.Second)
			if serial() != second {
				t.Error("another certificate than the last good one")
			}
		}
		if n := strings.Count(log.String(), "the old ones stay"); n != 1 {
			t.Errorf("said %d times:\n%s", n, log.String())
		}
		if err := os.Remove(certFile); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if serial() != second || strings.Count(log.String(), "the old ones stay") != 2 || !strings.Contains(log.String(), "does not exist") {
			t.Errorf("another failure is not said:\n%s", log.String())
		}
		authority.Files(t, dir, securetest.Options{})
		time.Sleep(time.Second)
		if s := serial(); s == second {
			t.Error("the certificate after a broken one is not used")
		}
		time.Sleep(time.Second)
		serial()
		if n := strings.Count(log.String(), "new TLS files are used"); n != 2 {
			t.Errorf("said %d times that new files are used:\n%s", n, log.String())
		}
	})
}

func TestAnExpiredCertificateIsTold(t *testing.T) {
	bubble(t, func(t *testing.T) {
		authority := securetest.NewAuthority(t)
		certFile, keyFile := authority.Files(t, t.TempDir(), securetest.Options{NotAfter: time.Now().Add(time.Minute)})
		var log bytes.Buffer
		server := newServer(t, secure.Server{CertFile: certFile, KeyFile: keyFile}, &log)
		client := &tls.Config{RootCAs: authority.Pool(), ServerName: "localhost"}
		if _, _, err := handshake(t, server, client); err != nil || log.Len() > 0 {
			t.Fatalf("%v, and in the log: %s", err, log.String())
		}
		time.Sleep(2 * time.Minute)
		for range 3 {
			if _, _, err := handshake(t, server, client); err == nil {
				t.Error("the client took an expired certificate")
			}
			time.Sleep(time.Second)
		}
		if n := strings.Count(log.String(), "has expired"); n != 1 {
			t.Errorf("said %d times:\n%s", n, log.String())
		}
		if newServer(t, secure.Server{CertFile: certFile, KeyFile: keyFile}, &log); strings.Count(log.String(), "has expired") != 2 {
			t.Errorf("not said at the start:\n%s", log.String())
		}
	})
}

func TestVersionAndProtocols(t *testing.T) {
	t.Parallel()
	authority := securetest.NewAuthority(t)
	server := newServer(t, authority.Server(t), io.Discard, secure.HTTP1)
	for _, tt := range []struct {
		name   string
		client *tls.Config
		ok     bool
	}{
		{"TLS 1.3", &tls.Config{MinVersion: tls.VersionTLS13}, true},
		{"TLS 1.2", &tls.Config{MaxVersion: tls.VersionTLS12}, true},
		{"TLS 1.1", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, false},
		{"HTTP/2 too", &tls.Config{NextProtos: []string{secure.HTTP2, secure.HTTP1}}, true},
		{"another protocol", &tls.Config{NextProtos: []string{"smtp"}}, false},
	} {
		tt.client.RootCAs, tt.client.ServerName = authority.Pool(), "localhost"
		_, dialled, err := handshake(t, server, tt.client)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
		if err == nil && tt.client.NextProtos != nil && dialled.NegotiatedProtocol != secure.HTTP1 {
			t.Errorf("%s: %q is spoken", tt.name, dialled.NegotiatedProtocol)
		}
	}
	if c := newClient(t, secure.Client{Enabled: true})(); c.MinVersion != tls.VersionTLS12 || c.InsecureSkipVerify {
		t.Errorf("a client's configuration: %+v", c)
	}
}

func TestClientCertificates(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ours, others := securetest.NewAuthority(t), securetest.NewAuthority(t)
		files := ours.Server(t)
		files.ClientCAFile = ours.Write(t, filepath.Join(t.TempDir(), "clients.pem"))
		server := newServer(t, files, io.Discard)
		client := func(certificates ...tls.Certificate) *tls.Config {
			return &tls.Config{
				RootCAs: ours.Pool(), ServerName: "localhost", ClientSessionCache: tls.NewLRUClientSessionCache(1),
				// Shown whoever the server says it trusts, as an attacker would.
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
					if certificates == nil {
						return &tls.Certificate{}, nil
					}
					return &certificates[0], nil
				},
			}
		}
		shown := client(ours.Issue(t, securetest.Options{Name: "billing"}))
		for range 2 { // the second time with a ticket, if there were any
			served, _, err := handshake(t, server, shown)
			if err != nil || !secure.Verified(&served) || served.VerifiedChains[0][0].DNSNames[0] != "billing" || served.DidResume {
				t.Errorf("a good certificate: %v, resumed %t", err, served.DidResume)
			}
		}
		if served, _, err := handshake(t, server, client()); err != nil || secure.Verified(&served) {
			t.Errorf("no certificate: %v", err)
		}
		if _, _, err := handshake(t, server, client(others.Issue(t, securetest.Options{Name: "billing"}))); err == nil {
			t.Error("a certificate of another authority was taken")
		}

		others.Write(t, files.ClientCAFile)
		time.Sleep(time.Second)
		if _, _, err := handshake(t, server, shown); err == nil {
			t.Error("a certificate of an authority that is gone was taken")
		}
		if served, _, err := handshake(t, server, client(others.Issue(t, securetest.Options{Name: "billing"}))); err != nil || !secure.Verified(&served) {
			t.Errorf("a certificate of the new authority: %v", err)
		}
	})
}

func TestAClientFollowsItsFiles(t *testing.T) {
	bubble(t, func(t *testing.T) {
		first, second := securetest.NewAuthority(t), securetest.NewAuthority(t)
		dir := t.TempDir()
		c := secure.Client{CAFile: first.Write(t, filepath.Join(dir, "ca.pem")), ServerName: "localhost"}
		c.CertFile, c.KeyFile = first.Files(t, dir, securetest.Options{Name: "edge"})
		current := newClient(t, c)
		servers := map[string]*tls.Config{}
		for name, a := range map[string]*securetest.Authority{"first": first, "second": second} {
			files := a.Server(t)
			files.ClientCAFile = a.Write(t, filepath.Join(t.TempDir(), "clients.pem"))
			servers[name] = newServer(t, files, io.Discard)
		}
		trusts := func(name string, want bool) {
			t.Helper()
			served, _, err := handshake(t, servers[name], current())
			if (err == nil && secure.Verified(&served)) != want {
				t.Errorf("the %s server: %v, %t", name, err, secure.Verified(&served))
			}
		}
		trusts("first", true)
		trusts("second", false)
		second.Write(t, c.CAFile)
		second.Files(t, dir, securetest.Options{Name: "edge"})
		time.Sleep(time.Second)
		trusts("first", false)
		trusts("second", true)
	})
}

func TestProblems(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	authority := securetest.NewAuthority(t)
	certFile, keyFile := authority.Files(t, dir, securetest.Options{})
	_, otherKey := authority.Files(t, t.TempDir(), securetest.Options{})
	broken, damaged := filepath.Join(dir, "broken.pem"), filepath.Join(dir, "damaged.pem")
	for name, text := range map[string]string{broken: "?", damaged: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	absent := filepath.Join(dir, "absent.pem")
	for _, tt := range []struct {
		server secure.Server
		want   string // a part of each line, joined by |
	}{
		{secure.Server{}, ""},
		{secure.Server{CertFile: certFile, KeyFile: keyFile, ClientCAFile: certFile}, ""},
		{secure.Server{CertFile: absent, KeyFile: absent}, "cert_file: " + absent + " does not exist|key_file: " + absent + " does not exist"},
		{secure.Server{CertFile: certFile, KeyFile: dir}, "key_file: " + dir + " cannot be read"},
		{secure.Server{CertFile: certFile, KeyFile: otherKey}, "private key does not match public key"},
		{secure.Server{CertFile: broken, KeyFile: keyFile}, "are no certificate and its key"},
		{secure.Server{ClientCAFile: broken}, "client_ca_file: " + broken + " holds no certificate in PEM"},
		{secure.Server{ClientCAFile: damaged}, "client_ca_file: " + damaged + " holds a certificate that cannot be read"},
	} {
		got := tt.server.Problems()
		var want []string
		if tt.want != "" {
			want = strings.Split(tt.want, "|")
		}
		if len(got) != len(want) {
			t.Errorf("%+v: %q, want %q", tt.server, got, want)
			continue
		}
		for i := range want {
			if !strings.Contains(got[i], want[i]) {
				t.Errorf("%+v: %q, want %q", tt.server, got[i], want[i])
			}
		}
		if _, err := secure.NewServer(tt.server, slog.New(slog.DiscardHandler)); (err == nil) != (want == nil && tt.server.Enabled()) {
			t.Errorf("%+v: NewServer: %v", tt.server, err)
		}
	}
	if got := (secure.Client{CAFile: absent, CertFile: certFile, KeyFile: otherKey}).Problems(); len(got) != 2 {
		t.Errorf("of a client: %q", got)
	}
	if _, err := secure.NewClient(secure.Client{CAFile: absent}, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("NewClient took a file that is not there")
	}
}

// Many handshakes at once look at the files one at a time, and nobody waits.
func TestManyHandshakes(t *testing.T) {
	t.Parallel()
	authority := securetest.NewAuthority(t)
	server := newServer(t, authority.Server(t), io.Discard)
	client := &tls.Config{RootCAs: authority.Pool(), ServerName: "localhost"}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, _, err := handshake(t, server, client); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// The name is checked, also where it is an address, which the handshake does not carry.
func TestAServersNameIsChecked(t *testing.T) {
	t.Parallel()
	authority := securetest.NewAuthority(t)
	server := newServer(t, authority.Server(t), io.Discard)
	current := newClient(t, secure.Client{CAFile: authority.Write(t, filepath.Join(t.TempDir(), "ca.pem"))})
	for name, ok := range map[string]bool{"localhost": true, "127.0.0.1": true, "example.org": false, "127.0.0.2": false} {
		c := current()
		c.ServerName = name
		_, _, err := handshake(t, server, c)
		if _, refused := errors.AsType[x509.HostnameError](err); (err == nil) != ok || refused == ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
