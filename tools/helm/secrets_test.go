package helm_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// existingSecrets are the Secrets that the values of the variants name, with their keys.
func existingSecrets(t testing.TB) map[string]map[string]string {
	t.Helper()
	certificate, key := selfSigned(t)
	pair := map[string]string{"tls.crt": certificate, "tls.key": key, "ca.crt": certificate}
	keys := map[string]string{"roles": strings.Repeat("r", 32), "clients": strings.Repeat("c", 32), "callers": strings.Repeat("s", 32)}
	return map[string]map[string]string{
		"carillon-keys":         keys,
		"other":                 keys,
		"carillon-nats":         {"edge": "e", "publish": "p"},
		"carillon-creds":        {"edge.creds": "e", "publish.creds": "p"},
		"nats-ca":               {"ca.crt": certificate},
		"carillon-edge-tls":     pair,
		"carillon-publish-tls":  pair,
		"carillon-presence-tls": pair,
		"carillon-ops-tls":      pair,
	}
}

func selfSigned(t testing.TB) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "carillon"}, DNSNames: []string{"*." + namespace + ".svc"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}))
}

// mount lays out below a directory what a container sees: the ConfigMaps among the objects
// and the existing Secrets, each where its volume is mounted. It returns the paths.
func mount(t testing.TB, dir string, objects []object, pod, container object) []string {
	t.Helper()
	secrets := existingSecrets(t)
	volumes := map[string]object{}
	for _, volume := range pod.list("spec", "volumes") {
		volumes[volume.text("name")] = volume
	}
	var paths []string
	for _, m := range container.list("volumeMounts") {
		volume, known := volumes[m.text("name")]
		if !known {
			t.Fatalf("the mount %s is of no volume", m.text("name"))
		}
		var source object
		var files map[string]string
		if name := volume.text("configMap", "name"); name != "" {
			source, files = volume["configMap"].(map[string]any), find(t, objects, "ConfigMap/"+name).strings("data")
		} else {
			name := volume.text("secret", "secretName")
			source, files = volume["secret"].(map[string]any), secrets[name]
			if files == nil {
				t.Fatalf("the Secret %q is not one that anybody made", name)
			}
		}
		if items := source.list("items"); len(items) > 0 {
			chosen := map[string]string{}
			for _, item := range items {
				text, has := files[item.text("key")]
				if !has {
					t.Fatalf("%s has no key %s", volume, item.text("key"))
				}
				chosen[item.text("path")] = text
			}
			files = chosen
		}
		path := filepath.Join(dir, m.text("mountPath"))
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(path, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		paths = append(paths, m.text("mountPath"))
	}
	return paths
}
