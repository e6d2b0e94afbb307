package rpc_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
	grpccredentials "google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// kinds is a verifier of the tokens "caller", of the issuer main, and "role".
type kinds struct{}

func (kinds) Verify(_ context.Context, token string) (auth.Identity, error) {
	switch token {
	case "caller":
		return auth.Identity{Kind: auth.ForCallers, Issuer: "main", Subject: "billing"}, nil
	case "of another issuer":
		return auth.Identity{Kind: auth.ForCallers, Issuer: "other", Subject: "billing"}, nil
	case "role":
		return auth.Identity{Kind: auth.ForRoles, Issuer: "roles", Subject: "role"}, nil
	}
	return auth.Identity{}, fault.New(fault.TokenSignatureInvalid, "", "the token is not good")
}

// issued is a certificate that another, or for the authority itself, has signed.
func issued(t *testing.T, authority *tls.Certificate, usage x509.ExtKeyUsage, uri string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		BasicConstraintsValid: true, IsCA: authority == nil, DNSNames: []string{"localhost"},
	}
	parent, by := template, any(key)
	if authority == nil {
		template.KeyUsage = x509.KeyUsageCertSign
	} else {
		template.ExtKeyUsage = []x509.ExtKeyUsage{usage}
		parent, by = authority.Leaf, authority.PrivateKey
	}
	if uri != "" {
		parsed, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = []*url.URL{parsed}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// overTLS is the context of a call whose client has shown a certificate, or none, in a
// handshake in which the server wanted it in this way.
func overTLS(t *testing.T, authority tls.Certificate, want tls.ClientAuthType, shown ...tls.Certificate) context.Context {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(authority.Leaf)
	near, far := net.Pipe()
	server := tls.Server(near, &tls.Config{
		Certificates: []tls.Certificate{issued(t, &authority, x509.ExtKeyUsageServerAuth, "")}, ClientAuth: want, ClientCAs: pool, MinVersion: tls.VersionTLS12,
	})
	client := tls.Client(far, &tls.Config{RootCAs: pool, ServerName: "localhost", Certificates: shown, MinVersion: tls.VersionTLS12})
	done := make(chan error, 1)
	go func() {
		err := client.HandshakeContext(t.Context())
		_, _ = client.Read(make([]byte, 1)) // takes the session tickets, until the pipe is closed
		done <- err
	}()
	err := server.HandshakeContext(t.Context())
	_, _ = near.Close(), far.Close()
	if clientErr := <-done; err != nil || clientErr != nil {
		t.Fatal(err, clientErr)
	}
	return peer.NewContext(t.Context(), &peer.Peer{AuthInfo: grpccredentials.TLSInfo{State: server.ConnectionState()}})
}

// A token whose key must be fetched first holds up its own call, not the others of the
// connection, which in the HTTP twin are everybody's.
func TestKeysAreAwaitedByTheirCallAlone(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := jwkset.NewJWKFromKey(key.Public(), jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: "a"}})
	if err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(jwkset.JWKSMarshal{Keys: []jwkset.JWKMarshal{public.Marshal()}})
	if err != nil {
		t.Fatal(err)
	}
	answer := make(chan struct{})
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		<-answer
		_, _ = w.Write(set) // the test sees what does not arrive
	}))
	defer keys.Close()
	const secret = "0123456789abcdef0123456789abcdef"
	verifier, err := auth.NewVerifier(auth.ForCallers, []auth.Issuer{
		{Name: "fetched", For: auth.ForCallers, Issuer: "fetched", Algorithms: []string{"ES256"}, JWKSURL: keys.URL},
		{Name: "held", For: auth.ForCallers, Issuer: "held", Algorithms: []string{"HS256"}, Secret: auth.Secret{Env: "SECRET"}},
	}, func(auth.Secret) ([]byte, error) { return []byte(secret), nil })
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	running.Go(func() { verifier.Run(ctx, slog.New(slog.DiscardHandler)) })

	opts := options(io.Discard)
	seen := make(chan struct{}, 100)
	opts.Authenticate[publishService] = rpc.Bearer(seeing{verifier, seen})
	server, memory := rpc.NewServer(opts), rpc.NewMemory()
	(&service{publish: accept}).register(server)
	client := publishv1.NewPublishServiceClient(serve(t, server, memory))
	publish := func(method jwt.SigningMethod, iss string, key any) error {
		token := jwt.NewWithClaims(method, jwt.MapClaims{"iss": iss, "sub": "billing", "aud": auth.CallerAudience, "exp": time.Now().Add(time.Hour).Unix()})
		token.Header["kid"] = "a"
		text, err := token.SignedString(key)
		if err != nil {
			return err
		}
		_, err = client.Publish(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+text), request())
		return err
	}
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	waiting, refused := make(chan error, 1), make(chan error, 1)
	go func() { waiting <- publish(jwt.SigningMethodES256, "fetched", key) }()
	go func() { refused <- publish(jwt.SigningMethodES256, "fetched", stranger) }()
	<-seen
	<-seen
	for range 10 {
		if err := publish(jwt.SigningMethodHS256, "held", []byte(secret)); err != nil {
			t.Error(err)
		}
	}
	close(answer)
	if err := <-waiting; err != nil {
		t.Errorf("the call whose key was awaited: %v", err)
	}
	if err := <-refused; reasonOf(err) != fault.TokenSignatureInvalid {
		t.Errorf("a stranger's call, whose key was awaited: %v", err)
	}
}

// seeing tells of each token that it is shown.
type seeing struct {
	rpc.Verifier
	seen chan<- struct{}
}

func (s seeing) Verify(ctx context.Context, token string) (auth.Identity, error) {
	s.seen <- struct{}{}
	return s.Verifier.Verify(ctx, token)
}

func TestCallersAreAuthenticated(t *testing.T) {
	t.Parallel()
	callers, err := auth.NewCallers([]auth.Caller{
		{Name: "billing", Issuer: "main"}, {Name: "mesh", Certificate: "spiffe://example.org/mesh"},
	}, auth.Issuer{Name: "main", For: auth.ForCallers}, auth.Issuer{Name: "other", For: auth.ForCallers})
	if err != nil {
		t.Fatal(err)
	}
	authority := issued(t, nil, 0, "")
	mesh := issued(t, &authority, x509.ExtKeyUsageClientAuth, "spiffe://example.org/mesh")
	stranger := issued(t, &authority, x509.ExtKeyUsageClientAuth, "spiffe://example.org/stranger")
	foreign := issued(t, nil, 0, "spiffe://example.org/mesh") // signed by itself
	plain := peer.NewContext(t.Context(), &peer.Peer{})
	verified := overTLS(t, authority, tls.VerifyClientCertIfGiven, mesh)
	authenticate := rpc.Callers(kinds{}, callers)
	for name, c := range map[string]struct {
		ctx    context.Context //nolint:containedctx // the call's
		token  string
		want   string // issuer and subject; "": refused
		reason fault.Reason
	}{
		"a token":                         {plain, "caller", "main billing", ""},
		"a token of another issuer":       {plain, "of another issuer", "", fault.CallerUnknown},
		"a role":                          {plain, "role", "roles role", ""},
		"a bad token":                     {plain, "bad", "", fault.TokenSignatureInvalid},
		"nothing":                         {plain, "", "", fault.TokenMissing},
		"nothing, not even a peer":        {t.Context(), "", "", fault.TokenMissing},
		"a certificate":                   {verified, "", "certificate mesh", ""},
		"a certificate and a token":       {verified, "caller", "main billing", ""},
		"a certificate and a bad token":   {verified, "bad", "", fault.TokenSignatureInvalid},
		"a stranger's certificate":        {overTLS(t, authority, tls.VerifyClientCertIfGiven, stranger), "", "", fault.CallerUnknown},
		"a certificate not verified":      {overTLS(t, authority, tls.RequestClientCert, mesh), "", "", fault.TokenMissing},
		"a certificate of nobody's":       {overTLS(t, authority, tls.RequireAnyClientCert, foreign), "", "", fault.TokenMissing},
		"no certificate":                  {overTLS(t, authority, tls.VerifyClientCertIfGiven), "", "", fault.TokenMissing},
		"no certificate, but a good word": {overTLS(t, authority, tls.VerifyClientCertIfGiven), "caller", "main billing", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, err := authenticate(c.ctx, c.token)
			if c.want == "" {
				if f := fault.From(err); f == nil || f.Reason != c.reason {
					t.Errorf("error %v, want %s", err, c.reason)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if identity, _ := rpc.IdentityFrom(ctx); identity.Issuer+" "+identity.Subject != c.want {
				t.Errorf("identity %+v, want %s", identity, c.want)
			}
		})
	}
	if _, err := rpc.Bearer(kinds{})(verified, ""); fault.From(err).Reason != fault.TokenMissing {
		t.Errorf("Bearer takes a certificate: %v", err)
	}
}
