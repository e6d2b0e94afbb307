package auth_test

import (
	"crypto/elliptic"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// files is a loader of secrets in files.
func files(s auth.Secret) ([]byte, error) {
	text, err := os.ReadFile(s.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &auth.SecretError{Key: "file", Message: "there is no such file"}
	}
	return text, err
}

func write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func signedBy(t testing.TB, key string) string {
	t.Helper()
	return signed(t, jwt.SigningMethodHS256, []byte(key), nil)
}

// Keys in files are those that the files hold, within a second; a file that is broken
// changes nothing.
func TestFilesOfKeysAreReadAgain(t *testing.T) {
	t.Parallel()
	key := ecdsaKey(t, elliptic.P256())
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		present, previous, public := filepath.Join(dir, "secret"), filepath.Join(dir, "previous"), filepath.Join(dir, "public.pem")
		write(t, present, secret)
		write(t, previous, other)
		write(t, public, publicPEM(t, ecdsaKey(t, elliptic.P256()).Public()).Env)
		rotating := hmacIssuer(auth.ForClients)
		rotating.Secret, rotating.PreviousSecret = auth.Secret{File: present}, auth.Secret{File: previous}
		pem := auth.Issuer{Name: "pem", For: auth.ForClients, Issuer: "pem", Algorithms: []string{"ES256"}, PublicKey: auth.Secret{File: public}, UserPrefix: "p-"}
		v, logged, stop := following(t, nil, files, rotating, pem)
		refused := func(token string) {
			t.Helper()
			_, err := v.Verify(t.Context(), token)
			wantReason(t, err, fault.TokenSignatureInvalid, "does not match")
		}
		wantGood(t, v, signedBy(t, secret))
		wantGood(t, v, signedBy(t, other))
		refused(es256(t, "pem", key, ""))

		const third = "a-third-secret-of-at-least-32-bytes!"
		write(t, present, third)
		write(t, previous, secret)
		write(t, public, publicPEM(t, key.Public()).Env)
		pass(time.Second)
		wantGood(t, v, signedBy(t, third))
		wantGood(t, v, signedBy(t, secret))
		wantGood(t, v, es256(t, "pem", key, ""))
		refused(signedBy(t, other))

		write(t, present, "short")
		if err := os.Remove(public); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		wantGood(t, v, signedBy(t, third))
		wantGood(t, v, es256(t, "pem", key, ""))
		write(t, public, publicPEM(t, ecdsaKey(t, elliptic.P384()).Public()).Env) // for ES384
		pass(time.Minute)
		wantGood(t, v, es256(t, "pem", key, ""))
		stop()
		text := logged.String()
		for says, times := range map[string]int{
			"was read again": 2, "secret: has 5 bytes": 1, "public_key.file: there is no such file": 1, "ES256 does not fit the key": 1,
			third: 0, "short": 0, dir: 0,
		} {
			if n := strings.Count(text, says); n != times {
				t.Errorf("logged %q %d times, want %d:\n%s", says, n, times, text)
			}
		}
	})
}

func TestReplace(t *testing.T) {
	t.Parallel()
	a := ecdsaKey(t, elliptic.P256())
	synctest.Test(t, func(t *testing.T) {
		at := &endpoint{}
		at.serve(jwk(t, a.Public(), "a", nil))
		sso, main, callers := keysIssuer("sso"), hmacIssuer(auth.ForClients), hmacIssuer(auth.ForCallers)
		callers.Name = "services"
		v, _, stop := following(t, at, texts, sso)
		defer stop()
		ofCallers := newVerifier(t, auth.ForCallers)
		byMain, byService := signedBy(t, secret), hs256(t, jwt.MapClaims{"aud": auth.CallerAudience})
		pass(time.Minute)

		broken := callers
		broken.Secret = auth.Secret{Env: "short"}
		if err := auth.Replace([]auth.Issuer{main, sso, broken}, v, ofCallers); err == nil || !strings.Contains(err.Error(), `issuer "services": secret: has 5 bytes`) {
			t.Errorf("Replace = %v", err)
		}
		_, err := v.Verify(t.Context(), byMain)
		wantReason(t, err, fault.TokenIssuerUnknown, "") // nothing was replaced

		at.fail(errors.New("connection refused"))
		if err := auth.Replace([]auth.Issuer{main, sso, callers}, v, ofCallers); err != nil {
			t.Fatal(err)
		}
		wantGood(t, v, byMain)
		wantGood(t, ofCallers, byService)
		wantGood(t, v, es256(t, "sso", a, "a")) // with keys that nobody could fetch now
		pass(time.Second)
		if n := at.fetches(); n != 1 {
			t.Errorf("%d fetches, want those of an issuer that stayed to be kept", n)
		}

		often := sso
		often.JWKSRefresh = time.Minute
		if err := auth.Replace([]auth.Issuer{main, often, callers}, v, ofCallers); err != nil {
			t.Fatal(err)
		}
		wantGood(t, v, es256(t, "sso", a, "a")) // the keys are no others for being fetched more often
		before := at.fetches()
		pass(10 * time.Minute)
		if n := at.fetches() - before; n < 8 {
			t.Errorf("%d fetches in ten minutes, want one a minute", n)
		}
		wantGood(t, v, es256(t, "sso", a, "a"))

		moved := sso
		moved.JWKSURL = "https://elsewhere.example/keys"
		if err := auth.Replace([]auth.Issuer{moved}, v, ofCallers); err != nil {
			t.Fatal(err)
		}
		_, err = v.Verify(t.Context(), es256(t, "sso", a, "a"))
		if f := fault.From(err); f == nil || f.Reason != fault.IssuerKeysUnavailable { // keys of another address are not these
			t.Errorf("error %v", err)
		}
		_, err = v.Verify(t.Context(), byMain)
		wantReason(t, err, fault.TokenIssuerUnknown, "")
		before = at.fetches()
		pass(time.Hour)
		for _, address := range at.fetched[before:] {
			if address != moved.JWKSURL {
				t.Fatalf("fetched %s of an issuer that is gone", address)
			}
		}
		at.serve(jwk(t, a.Public(), "a", nil))
		pass(time.Minute)
		wantGood(t, v, es256(t, "sso", a, "a"))
	})
}
