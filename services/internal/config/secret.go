package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/carillon-rt/carillon/services/internal/auth"
)

// maxSecretBytes bounds the file of a secret or a key.
const maxSecretBytes = 64 << 10

// envName is what the name of an environment variable looks like, and an encoded
// secret that was put in its place does not.
var envName = regexp.MustCompile(`^[A-Z][A-Z0-9_]{0,47}$`)

// Secrets returns the function that loads what an auth.Secret names. Its errors are
// *auth.SecretError where one of the two keys is at fault, and show no secret.
func Secrets(getenv func(string) string) auth.Load {
	return func(s auth.Secret) ([]byte, error) {
		switch {
		case s.Env != "" && s.File != "":
			return nil, errors.New("gives env and file; it takes one")
		case s.File != "":
			return readSecret(s.File)
		case s.Env == "":
			return nil, errors.New("gives neither env nor file")
		case !envName.MatchString(s.Env):
			return nil, &auth.SecretError{Key: "env", Message: "is not the name of an environment variable: capitals, digits and _, at most 48"}
		}
		value := getenv(s.Env)
		if value == "" {
			return nil, &auth.SecretError{Key: "env", Message: fmt.Sprintf("the environment variable %s is not set", s.Env)}
		}
		return []byte(value), nil
	}
}

// readSecret does not show the file's name: it may be a misplaced secret.
func readSecret(name string) ([]byte, error) {
	refuse := func(message string) ([]byte, error) {
		if dir, err := os.Getwd(); err == nil && !filepath.IsAbs(name) {
			message += "; a relative path starts at " + dir
		}
		return nil, &auth.SecretError{Key: "file", Message: message}
	}
	file, err := os.Open(name)
	if err != nil {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return refuse("there is no such file")
		case errors.Is(err, fs.ErrPermission):
			return refuse("the file may not be read")
		default:
			return refuse("the file cannot be opened")
		}
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxSecretBytes+1))
	switch {
	case err != nil:
		return refuse("the file cannot be read")
	case len(text) > maxSecretBytes:
		return refuse(fmt.Sprintf("the file has more than %d bytes", maxSecretBytes))
	}
	return []byte(strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")), nil
}
