// Package securetest makes certificates for tests.
package securetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/internal/secure"
)

// Authority signs certificates.
type Authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// Options say what a certificate is for. The zero value is for 127.0.0.1, ::1 and
// localhost, and for an hour from now.
type Options struct {
	Name     string   // of the subject, and a DNS name; empty: localhost
	URI      *url.URL // another name; nil: none
	NotAfter time.Time
}

// NewAuthority makes an authority.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
	key := newKey(t)
	return &Authority{parse(t, template, template, key, key), key}
}

// Write puts the authority's certificate into a file, whose name it returns.
func (a *Authority) Write(t testing.TB, name string) string {
	t.Helper()
	return write(t, name, "CERTIFICATE", a.certificate.Raw)
}

// Pool holds the authority alone.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

// Issue makes a certificate and its key, for servers and clients.
func (a *Authority) Issue(t testing.TB, o Options) tls.Certificate {
	t.Helper()
	if o.NotAfter.IsZero() {
		o.NotAfter = time.Now().Add(time.Hour)
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: o.Name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: o.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames: []string{o.Name},
	}
	if o.Name == "" {
		template.DNSNames = []string{"localhost"}
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	}
	if o.URI != nil {
		template.URIs = []*url.URL{o.URI}
	}
	key := newKey(t)
	leaf := parse(t, template, a.certificate, key, a.key)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

// Files makes a certificate and its key, and puts them into files in dir, over those of
// an earlier call.
func (a *Authority) Files(t testing.TB, dir string, o Options) (certFile, keyFile string) {
	t.Helper()
	certificate := a.Issue(t, o)
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, filepath.Join(dir, "cert.pem"), "CERTIFICATE", certificate.Certificate[0]),
		write(t, filepath.Join(dir, "key.pem"), "PRIVATE KEY", key)
}

// Server makes the files of a listener in a directory of its own.
func (a *Authority) Server(t testing.TB) secure.Server {
	t.Helper()
	certFile, keyFile := a.Files(t, t.TempDir(), Options{})
	return secure.Server{CertFile: certFile, KeyFile: keyFile}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func parse(t testing.TB, template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func serial() *big.Int {
	n, _ := rand.Int(rand.Reader, big.NewInt(1<<62)) // never fails
	return n
}

// write replaces a file as a whole, as those who rotate certificates do.
func write(t testing.TB, name, kind string, der []byte) string {
	t.Helper()
	aside := name + ".new"
	if err := os.WriteFile(aside, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(aside, name); err != nil {
		t.Fatal(err)
	}
	return name
}
