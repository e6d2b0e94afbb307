package stream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"

	"github.com/nats-io/nats.go"
)

// Login is how an external NATS is told who connects: by a credentials file, by a name
// and a password, or, if it is zero, as the URL says.
type Login struct {
	// CredentialsFile is read at each connection.
	CredentialsFile string
	User            string
	// Password is called at each connection. Its error is logged.
	Password func() (string, error)
}

// login returns the options that Options.Login stands for.
func (c *connection) login(l Login) []nats.Option {
	switch {
	case l.CredentialsFile != "":
		return []nats.Option{nats.UserCredentials(l.CredentialsFile)}
	case l.User != "":
		return []nats.Option{nats.UserInfoHandler(func() (string, string) {
			password, err := l.Password()
			if err != nil { // the server will refuse an empty one
				c.failed(err)
			}
			return l.User, password
		})}
	}
	return nil
}

// secured returns the options that Options.TLS stands for.
func (c *connection) secured(current func() *tls.Config) []nats.Option {
	if current == nil {
		return nil
	}
	// nats.go tells of a connection's TLS only in a way that races with its end.
	files := current()
	files.VerifyConnection = func(state tls.ConnectionState) error {
		c.certificateEnd.Store(&state.PeerCertificates[0].NotAfter)
		return nil
	}
	options := []nats.Option{
		nats.Secure(files),
		func(o *nats.Options) error {
			o.RootCAsCB = func() (*x509.CertPool, error) { return current().RootCAs, nil }
			return nil
		},
	}
	if len(current().Certificates) > 0 {
		options = append(options, func(o *nats.Options) error {
			o.TLSCertCB = func() (tls.Certificate, error) { return current().Certificates[0], nil }
			return nil
		})
	}
	return options
}

// refusesLogin tells whether a server would not let this process in. nats.go tells so at
// every try, as an error of the connection.
func refusesLogin(err error) bool {
	return slices.ContainsFunc([]error{
		nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired,
	}, func(refusal error) bool { return errors.Is(err, refusal) })
}
