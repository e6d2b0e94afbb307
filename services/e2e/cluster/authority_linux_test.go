package cluster_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// authority signs the certificates of a cluster, whose files are in a directory.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(b *testing.B, dir string) *authority {
	b.Helper()
	a := &authority{dir: dir}
	a.cert, a.key = a.issue(b, "ca", &x509.Certificate{
		Subject: pkix.Name{CommonName: "cluster"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return a
}

// server makes name.pem and name.key for a server with these addresses and names, which may
// be the client of another.
func (a *authority) server(b *testing.B, name string, addresses []net.IP, names ...string) {
	b.Helper()
	a.issue(b, name, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IPAddresses: addresses, DNSNames: names,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
}

// client makes name.pem and name.key for a user of Kubernetes, who belongs to a group.
func (a *authority) client(b *testing.B, name, group string) {
	b.Helper()
	a.issue(b, name, &x509.Certificate{
		Subject: pkix.Name{CommonName: name, Organization: []string{group}}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

func (a *authority) issue(b *testing.B, name string, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(b, err)
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	must(b, err)
	cert, err := x509.ParseCertificate(der)
	must(b, err)
	encoded, err := x509.MarshalECPrivateKey(key)
	must(b, err)
	write(b, filepath.Join(a.dir, name+".pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(b, filepath.Join(a.dir, name+".key"), string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: encoded})))
	return cert, key
}
