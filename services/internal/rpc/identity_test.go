package rpc_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/url"
	"testing"
	"time"

	grpccredentials "google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

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
