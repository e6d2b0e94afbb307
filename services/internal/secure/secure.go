// Package secure owns how connections are kept from others: TLS from certificate files,
// which are read again when they change, and the Host header of requests that only this
// machine may make. Which listener or server uses which files is its caller's affair.
package secure

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
)

// Protocols that a listener speaks, as ALPN names them (RFC 7301).
const (
	HTTP1 = "http/1.1"
	HTTP2 = "h2"
)

// Server names the files of a listener, in PEM. The zero value is a listener without
// TLS.
type Server struct {
	CertFile     string // the certificate chain
	KeyFile      string // its private key
	ClientCAFile string // authorities of client certificates; empty: none is asked for
}

// Enabled tells whether the listener speaks TLS.
func (s Server) Enabled() bool { return s != Server{} }

// Problems tells what is wrong with the files, a line "key: message" each.
func (s Server) Problems() []string {
	return append(pairProblems(s.CertFile, s.KeyFile), authorityProblems("client_ca_file", s.ClientCAFile)...)
}

// NewServer returns what a listener speaks TLS with: version 1.2 or later, and of
// protocols the client's first choice. The files are looked at again during
// handshakes, at most once a second; while new ones cannot be used the old ones stay,
// and the logger is told. A client certificate is verified if one is shown, at every
// connection anew.
func NewServer(s Server, logger *slog.Logger, protocols ...string) (*tls.Config, error) {
	files := &watched{
		logger: logger, names: []string{s.CertFile, s.KeyFile, s.ClientCAFile},
		parse: func(read []source) (*material, error) {
			m, err := parsePair(read[0], read[1])
			if err != nil {
				return nil, err
			}
			m.config = &tls.Config{
				MinVersion: tls.VersionTLS12, NextProtos: protocols, Certificates: []tls.Certificate{*m.certificate},
				// Records that grow from small ones are for pages that show while they load. A
				// message is used when all of it is there.
				DynamicRecordSizingDisabled: true,
			}
			if s.ClientCAFile == "" {
				return m, nil
			}
			if m.config.ClientCAs, err = parseAuthorities(read[2]); err != nil {
				return nil, err
			}
			m.config.ClientAuth = tls.VerifyClientCertIfGiven
			// A ticket would let in whom an authority that is gone has vouched for.
			m.config.SessionTicketsDisabled = true
			return m, nil
		},
	}
	if err := files.load(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: protocols,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return files.now().config, nil },
	}, nil
}

// Client says how TLS is spoken towards a server. The zero value is without TLS.
type Client struct {
	Enabled    bool   // implied by any of the others
	CAFile     string // authorities of the server's certificate, in PEM; empty: the system's
	CertFile   string // a client certificate chain, in PEM; empty: none
	KeyFile    string // its private key, in PEM
	ServerName string // name that the certificate must have; empty: the one that is dialled
}

// Used tells whether TLS is spoken.
func (c Client) Used() bool { return c != Client{} }

// Problems tells what is wrong with the files, a line "key: message" each.
func (c Client) Problems() []string {
	return append(pairProblems(c.CertFile, c.KeyFile), authorityProblems("ca_file", c.CAFile)...)
}

// NewClient returns a function that gives what a new connection to a server speaks TLS
// with: a configuration of its own each time, of the files as they are at most a second
// later than they change. While new ones cannot be used the old ones stay, and the
// logger is told.
func NewClient(c Client, logger *slog.Logger) (func() *tls.Config, error) {
	files := &watched{
		logger: logger, names: []string{c.CertFile, c.KeyFile, c.CAFile},
		parse: func(read []source) (_ *material, err error) {
			m := &material{}
			if c.CertFile != "" {
				if m, err = parsePair(read[0], read[1]); err != nil {
					return nil, err
				}
			}
			m.config = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.ServerName}
			if m.certificate != nil {
				m.config.Certificates = []tls.Certificate{*m.certificate}
			}
			if c.CAFile != "" {
				m.config.RootCAs, err = parseAuthorities(read[2])
			}
			return m, err
		},
	}
	if err := files.load(); err != nil {
		return nil, err
	}
	return func() *tls.Config { return files.now().config.Clone() }, nil
}

// pairProblems reports a certificate and key that cannot be used.
func pairProblems(certFile, keyFile string) []string {
	if certFile == "" || keyFile == "" {
		return nil
	}
	certificate, certErr := readFile(certFile)
	key, keyErr := readFile(keyFile)
	var problems []string
	for _, p := range []struct {
		key string
		err error
	}{{"cert_file", certErr}, {"key_file", keyErr}} {
		if p.err != nil {
			problems = append(problems, fmt.Sprintf("%s: %v", p.key, p.err))
		}
	}
	if problems != nil {
		return problems
	}
	if _, err := parsePair(certificate, key); err != nil {
		return []string{fmt.Sprintf("cert_file: %v", err)}
	}
	return nil
}

func authorityProblems(key, name string) []string {
	if name == "" {
		return nil
	}
	read, err := readFile(name)
	if err == nil {
		_, err = parseAuthorities(read)
	}
	if err != nil {
		return []string{fmt.Sprintf("%s: %v", key, err)}
	}
	return nil
}

// FileProblems tells whether a file cannot be read; an empty name is no file.
func FileProblems(name string) []string {
	if name == "" {
		return nil
	}
	if _, err := readFile(name); err != nil {
		return []string{err.Error()}
	}
	return nil
}

// Verified tells whether a connection's other end has shown a certificate that was
// verified; state may be nil.
func Verified(state *tls.ConnectionState) bool {
	return state != nil && len(state.VerifiedChains) > 0
}

// material is what was made of files.
type material struct {
	config      *tls.Config
	certificate *tls.Certificate // nil if there is none
}

// leaf is the certificate itself; nil if there is none.
func (m *material) leaf() *x509.Certificate {
	if m.certificate == nil {
		return nil
	}
	return m.certificate.Leaf
}
