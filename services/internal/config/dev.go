package config

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

// What dev calls its own.
const (
	// DevCaller is the caller that may use every channel.
	DevCaller = "dev"
	// DevISS is the iss of the tokens that its keys sign.
	DevISS = "carillon-dev"
)

// DevIssuers are the issuers of dev, for clients and for callers, whose keys
// GenerateKeys makes.
func DevIssuers(dataDir string) []auth.Issuer {
	var issuers []auth.Issuer
	for _, kind := range []auth.Kind{auth.ForClients, auth.ForCallers} {
		issuers = append(issuers, auth.Issuer{
			Name: DevIssuerName(kind), For: kind, Algorithms: []string{"HS256"}, Issuer: DevISS, SubscriptionsClaim: devSubscriptionsClaim(kind), InfoClaim: "info",
			Secret: auth.Secret{File: keyFile(dataDir, kind)}, Skew: 5 * time.Second,
		})
	}
	return issuers
}

// devSubscriptionsClaim is the claim of dev that lists channels to be subscribed to.
func devSubscriptionsClaim(kind auth.Kind) string {
	if kind == auth.ForClients {
		return "channels"
	}
	return ""
}

// DevIssuerName is the name of the issuer of dev for a kind.
func DevIssuerName(kind auth.Kind) string { return "dev-" + string(kind) }

func keyFile(dataDir string, kind auth.Kind) string {
	return filepath.Join(dataDir, "keys", string(kind)+".key")
}

// GenerateKeys makes the keys of dev that are not there yet, readable by their owner
// alone: 32 random bytes each, as base64url.
func GenerateKeys(dataDir string) error {
	if err := os.MkdirAll(filepath.Join(dataDir, "keys"), 0o700); err != nil {
		return fmt.Errorf("data_dir: the keys of dev cannot be kept: %w", err)
	}
	for _, kind := range []auth.Kind{auth.ForClients, auth.ForCallers, auth.ForRoles} {
		if err := generateKey(keyFile(dataDir, kind)); err != nil {
			return fmt.Errorf("data_dir: the keys of dev cannot be kept: %w", err)
		}
	}
	return nil
}

// generateKey writes aside and renames, so that no crash leaves half a key.
func generateKey(name string) (err error) {
	if _, err := os.Stat(name); err == nil {
		return nil
	}
	file, err := os.CreateTemp(filepath.Dir(name), ".key-*") // of mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file.Name()) // the first error tells more
		}
	}()
	key := make([]byte, auth.MinSecretBytes)
	_, _ = rand.Read(key) // never fails
	if _, err := file.WriteString(base64.RawURLEncoding.EncodeToString(key) + "\n"); err != nil {
		_ = file.Close()
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	return os.Rename(file.Name(), name)
}

// applyDevDefaults puts in the defaults that are others in dev: everybody has the same
// address there, and every trace is of interest.
func (c *Config) applyDevDefaults() {
	c.Telemetry.SampleRatio = wholeRatio
	c.Edge.MaxConnectionsPerAddress, c.Edge.MaxNewConnectionsPerAddress = 0, 0
}

// applyDev puts in what dev brings, but its keys and its caller: loopback, and its
// namespaces if the configuration has none.
func (c *Config) applyDev(r *report) {
	for _, l := range c.listeners() {
		if host, port, err := net.SplitHostPort(*l.address); err == nil && host == "" {
			*l.address = net.JoinHostPort("127.0.0.1", port)
		} else if err == nil && !isLoopback(*l.address) {
			r.add(l.path, "%q is not a loopback address; dev listens on nothing else", *l.address)
		}
	}
	for i, issuer := range c.Auth.Issuers {
		if issuer.Issuer == DevISS || slices.ContainsFunc(DevIssuers(c.DataDir), func(own auth.Issuer) bool { return own.Name == issuer.Name }) {
			r.add(fmt.Sprintf("auth.issuers[%d]", i), "dev has an issuer of this name or iss of its own")
		}
	}
	if len(c.Namespaces) == 0 {
		c.Namespaces = devNamespaces()
	}
}

// useDevKeys adds the issuers of dev, its caller, and its roles' secret unless there is
// one. Callers that were bound to the only issuer of the file stay so.
func (c *Config) useDevKeys() {
	own := DevIssuerName(auth.ForCallers)
	issuer := own
	for _, i := range c.Auth.Issuers {
		if i.For == auth.ForCallers {
			issuer = i.Name
		}
	}
	c.Callers = slices.Clone(c.Callers)
	for i := range c.Callers {
		switch caller := &c.Callers[i]; {
		case caller.Issuer != "" || caller.Certificate != "":
		case caller.Name == DevCaller:
			caller.Issuer = own
		default:
			caller.Issuer = issuer
		}
	}
	if !slices.ContainsFunc(c.Callers, func(caller auth.Caller) bool { return caller.Name == DevCaller }) {
		everywhere := []string{"{rest...}"}
		c.Callers = append(c.Callers, auth.Caller{
			Name: DevCaller, Issuer: own, Publish: everywhere, Presence: everywhere, History: everywhere, Purge: everywhere,
			Control: auth.ControlMethods(), Subscribe: everywhere, Console: true,
		})
	}
	c.Auth.Issuers = append(c.Auth.Issuers, DevIssuers(c.DataDir)...)
	if c.Auth.RolesSecret.IsZero() {
		c.Auth.RolesSecret = auth.Secret{File: keyFile(c.DataDir, auth.ForRoles)}
	}
}

// devNamespaces are chat for anyone signed in, each user's own inbox, news that only
// services publish, and cursor, which stores nothing.
func devNamespaces() []namespace.Namespace {
	history := func() *namespace.History { return &namespace.History{MaxBytes: 256 << 20} }
	namespaces := []namespace.Namespace{
		{
			Name: "chat", History: history(), Presence: true,
			Rules: []namespace.Rule{{Channel: "chat.{rest...}", Subscribe: "true", Publish: "true"}},
		},
		{
			Name: "user", History: history(),
			Rules: []namespace.Rule{{Channel: "user.{id}", Subscribe: "id == user"}},
		},
		{
			Name: "news", History: history(),
			Rules: []namespace.Rule{{Channel: "news.{rest...}", Subscribe: "true"}},
		},
		{
			Name: "cursor", Ephemeral: true, Rate: &namespace.Rate{Messages: 60, Per: time.Second},
			Rules: []namespace.Rule{{Channel: "cursor.{rest...}", Subscribe: "true", Publish: "true"}},
		},
	}
	for i := range namespaces {
		applyDefaults(reflect.ValueOf(&namespaces[i]).Elem())
	}
	return namespaces
}
