package config_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/carillon-rt/carillon/services/internal/config"
	"github.com/carillon-rt/carillon/services/internal/secure/securetest"
)

func TestFilesOfTLS(t *testing.T) {
	t.Parallel()
	authority := securetest.NewAuthority(t)
	files := authority.Server(t)
	ca := authority.Write(t, filepath.Join(t.TempDir(), "ca.pem"))
	_, otherKey := authority.Files(t, t.TempDir(), securetest.Options{})
	pair := fmt.Sprintf("cert_file: %q, key_file: %q", files.CertFile, files.KeyFile)
	for _, tt := range []struct {
		name, text string
		command    config.Command
		want       []string
	}{
		{"all good", "edge: {tls: {" + pair + "}}\npublish: {tls: {" + pair + ", client_ca_file: " + ca + "}}\npresence: {dial_tls: {ca_file: " + ca + "}}", config.Dev, nil},
		{"half a pair", "edge: {tls: {cert_file: " + files.CertFile + "}}\nnats: {tls: {key_file: " + files.KeyFile + "}}", config.Dev, []string{
			"edge.tls: needs both cert_file and key_file (carillon.yaml:1)", "nats.tls: needs both cert_file and key_file (carillon.yaml:2)",
		}},
		{"authorities alone", "publish: {tls: {client_ca_file: " + ca + "}}", config.Dev, []string{"publish.tls: client_ca_file needs cert_file and key_file (carillon.yaml:1)"}},
		{"no such files", "presence: {tls: {cert_file: /no/cert, key_file: /no/key}, dial_tls: {ca_file: /no/ca}}\nnats: {credentials: /no/creds}", config.Dev, []string{
			"presence.tls.cert_file: /no/cert does not exist (carillon.yaml:1)", "presence.tls.key_file: /no/key does not exist (carillon.yaml:1)",
			"presence.dial_tls.ca_file: /no/ca does not exist (carillon.yaml:1)", "nats.credentials: /no/creds does not exist (carillon.yaml:2)",
		}},
		{"another's key", fmt.Sprintf("edge: {tls: {cert_file: %q, key_file: %q}}", files.CertFile, otherKey), config.Dev, []string{"edge.tls.cert_file: " + files.CertFile + " and " + otherKey + " are no certificate and its key: tls: private key does not match public key (carillon.yaml:1)"}},
		{"no authority", "edge: {tls: {" + pair + ", client_ca_file: " + files.KeyFile + "}}", config.Dev, []string{"edge.tls.client_ca_file: " + files.KeyFile + " holds no certificate in PEM (carillon.yaml:1)"}},
		{"callers by certificate", "ops: {tls: {" + pair + ", client_ca_file: " + ca + "}}\ncallers: [{name: a, certificate: a.example}]", config.Dev, nil},
		{"whose nobody asks for", "ops: {tls: {" + pair + "}}\ncallers: [{name: a, certificate: a.example}]", config.Dev, []string{
			"callers[0].certificate: needs publish.tls.client_ca_file, or ops.tls.client_ca_file for the console (carillon.yaml:2)",
		}},
		{"of every role", "ops: {tls: {cert_file: /no/cert, key_file: " + files.KeyFile + "}}", config.Dev, []string{"ops.tls.cert_file: /no/cert does not exist (carillon.yaml:1)"}},
		{"of roles that do not run", "edge: {tls: {cert_file: /no/cert, key_file: /no/key}}\nops: {tls: {cert_file: /no/cert, key_file: /no/key}}\nnats: {credentials: /no/creds}", config.NoRole, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := process{file: tt.text, command: tt.command}.load(t)
			if tt.want == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantProblems(t, err, tt.want...)
		})
	}
}
