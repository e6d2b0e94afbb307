package secure_test

import (
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/internal/secure"
	"github.com/carillon-rt/carillon/services/internal/secure/securetest"
)

// A chain is good until its first certificate ends, authorities until the last has; what
// is read is what the files hold now.
func TestExpiries(t *testing.T) {
	t.Parallel()
	authority, dir := securetest.NewAuthority(t), t.TempDir()
	issue := func(folder string, lasts time.Duration) (certFile, keyFile string, end time.Time) {
		folder = filepath.Join(dir, folder)
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		end = time.Now().Add(lasts).UTC().Truncate(time.Second)
		certFile, keyFile = authority.Files(t, folder, securetest.Options{NotAfter: end})
		return certFile, keyFile, end
	}
	long, key, longEnd := issue("long", 3*time.Hour)
	short, _, shortEnd := issue("short", time.Hour)
	both := filepath.Join(dir, "both.pem")
	concatenate(t, both, long, short)

	check := func(found, want map[string]time.Time) {
		t.Helper()
		if !maps.Equal(found, want) {
			t.Errorf("found %v, want %v", found, want)
		}
	}
	check(secure.Server{CertFile: long, KeyFile: key}.Expiries(), map[string]time.Time{long: longEnd})
	check(secure.Server{CertFile: both, KeyFile: key}.Expiries(), map[string]time.Time{both: shortEnd})
	check(secure.Server{CertFile: short, KeyFile: key, ClientCAFile: both}.Expiries(), map[string]time.Time{short: shortEnd, both: longEnd})
	check(secure.Client{CAFile: both}.Expiries(), map[string]time.Time{both: longEnd})
	check(secure.Client{CAFile: filepath.Join(dir, "none.pem"), CertFile: key}.Expiries(), map[string]time.Time{})
	check(secure.Client{Enabled: true}.Expiries(), map[string]time.Time{})
	concatenate(t, short, long)
	check(secure.Client{CertFile: short}.Expiries(), map[string]time.Time{short: longEnd})
}

// concatenate writes into a file what others hold.
func concatenate(t *testing.T, name string, files ...string) {
	t.Helper()
	var all []byte
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, text...)
	}
	if err := os.WriteFile(name, all, 0o600); err != nil {
		t.Fatal(err)
	}
}
