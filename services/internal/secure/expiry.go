package secure

import (
	"crypto/x509"
	"encoding/pem"
	"time"
)

// Expiries tells until when the files are good, by their names. It reads them, and leaves
// out what cannot be read: who uses them is told of that.
func (s Server) Expiries() map[string]time.Time { return expiries(s.CertFile, s.ClientCAFile) }

// Expiries is what Server.Expiries is, of a client's files.
func (c Client) Expiries() map[string]time.Time { return expiries(c.CertFile, c.CAFile) }

// expiries takes of a chain the first end, after which it cannot be verified, and of
// authorities the last: one that is on its way out stands beside its successor.
func expiries(chain, authorities string) map[string]time.Time {
	found := map[string]time.Time{}
	if ends := endsOf(chain); len(ends) > 0 {
		found[chain] = ends[0]
		for _, end := range ends {
			if end.Before(found[chain]) {
				found[chain] = end
			}
		}
	}
	for _, end := range endsOf(authorities) {
		if end.After(found[authorities]) {
			found[authorities] = end
		}
	}
	return found
}

// endsOf is when each certificate of a file ends.
func endsOf(name string) (ends []time.Time) {
	if name == "" {
		return nil
	}
	read, err := readFile(name)
	if err != nil {
		return nil
	}
	for block, rest := pem.Decode(read.text); block != nil; block, rest = pem.Decode(rest) {
		if certificate, err := x509.ParseCertificate(block.Bytes); err == nil {
			ends = append(ends, certificate.NotAfter)
		}
	}
	return ends
}
