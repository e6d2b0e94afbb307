package auth

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// Callers knows which backend services there are, by what they are known, and what each
// may do. It is safe for concurrent use.
//
// Its methods that begin with May take a caller's name from an Identity that Known or
// OfCertificate has vouched for.
type Callers struct{ book atomic.Pointer[book] }

// book is the callers that count at a time.
type book struct {
	byName        map[string]grants
	byCertificate map[string]string // the name of the caller
}

// grants are what is given to one caller.
type grants struct {
	// rule names the caller as its place in the configuration: "callers[0]".
	rule string
	// issuer is the name of the issuer of its tokens: any if "", none if
	// CertificateIssuer.
	issuer                                       string
	publish, presence, history, purge, subscribe []channel.Pattern
	control                                      []string
	console                                      bool
}

// maxCallerBytes bounds a caller's name, which names the publisher of its messages.
const maxCallerBytes = 128

// ControlMethods lists the methods of the ControlService, which a caller may be given
// one by one.
func ControlMethods() []string {
	return []string{"DisconnectUser", "DisconnectConnection", "SubscribeUser", "UnsubscribeUser", "RevokeTokens", "ListConnections"}
}

// NewCallers compiles the callers, each bound to the issuer that it names or else to the
// only one that is for callers; without any issuers the tokens of all are as good. The
// error has a line a problem.
func NewCallers(callers []Caller, issuers ...Issuer) (*Callers, error) {
	c := &Callers{}
	if err := c.Replace(callers, issuers...); err != nil {
		return nil, err
	}
	return c, nil
}

// Replace puts other callers in the place of all there are, or with an error in that of
// none. The arguments and the error are those of NewCallers.
func (c *Callers) Replace(callers []Caller, issuers ...Issuer) error {
	compiled, problems := compileCallers(callers, issuers)
	if len(problems) > 0 {
		errs := make([]error, len(problems))
		for i, line := range problems {
			errs[i] = errors.New("callers" + line)
		}
		return errors.Join(errs...)
	}
	c.book.Store(compiled)
	return nil
}

// CallerProblems lists what is wrong with a list of callers beside these issuers, a line
// each, each beginning with its key ("[1].publish[0]: …").
func CallerProblems(callers []Caller, issuers ...Issuer) []string {
	_, problems := compileCallers(callers, issuers)
	return problems
}

func compileCallers(callers []Caller, issuers []Issuer) (*book, []string) {
	b := &book{byName: make(map[string]grants, len(callers)), byCertificate: map[string]string{}}
	var problems []string
	for i, caller := range callers {
		add := func(format string, args ...any) {
			problems = append(problems, fmt.Sprintf("[%d].", i)+fmt.Sprintf(format, args...))
		}
		if err := checkCallerName(caller.Name); err != nil {
			add("name: %v", err)
		} else if _, twice := b.byName[caller.Name]; twice {
			add("name: there is already a caller %q", caller.Name)
		}
		given := grants{rule: fmt.Sprintf("callers[%d]", i), issuer: CertificateIssuer}
		if caller.Certificate == "" {
			issuer, problem := issuerOfCaller(caller, issuers)
			if problem != "" {
				add("issuer: %s", problem)
			}
			given.issuer = issuer
		} else if problem := b.addCertificate(caller); problem != "" {
			add("certificate: %s", problem)
		}
		for _, list := range []struct {
			key      string
			texts    []string
			patterns *[]channel.Pattern
		}{
			{"publish", caller.Publish, &given.publish},
			{"presence", caller.Presence, &given.presence},
			{"history", caller.History, &given.history},
			{"purge", caller.Purge, &given.purge},
			{"subscribe", caller.Subscribe, &given.subscribe},
		} {
			for j, text := range list.texts {
				pattern, err := channel.ParsePattern(text)
				if err != nil {
					add("%s[%d]: %v", list.key, j, err)
				}
				*list.patterns = append(*list.patterns, pattern)
			}
		}
		for j, method := range caller.Control {
			if !slices.Contains(ControlMethods(), method) {
				add("control[%d]: %.100q is not one of %s", j, method, strings.Join(ControlMethods(), ", "))
			}
		}
		given.control, given.console = slices.Clone(caller.Control), caller.Console
		b.byName[caller.Name] = given
	}
	return b, problems
}

// issuerOfCaller is the name of the issuer whose tokens name a caller; "" if there are
// no issuers to choose from.
func issuerOfCaller(caller Caller, issuers []Issuer) (name, problem string) {
	var names []string
	for _, i := range issuers {
		if i.For == ForCallers {
			names = append(names, i.Name)
		}
	}
	switch {
	case caller.Issuer != "" && !slices.Contains(names, caller.Issuer):
		return "", fmt.Sprintf("there is no issuer %.100q for callers", caller.Issuer)
	case caller.Issuer != "":
		return caller.Issuer, ""
	case len(names) > 1:
		return "", "is required, since several issuers are for callers: " + strings.Join(names, ", ")
	case len(names) == 1:
		return names[0], ""
	default:
		return "", ""
	}
}

var dnsName = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

// addCertificate notes by which name in a certificate a caller is known.
func (b *book) addCertificate(caller Caller) (problem string) {
	name := caller.Certificate
	if caller.Issuer != "" {
		return "is given, and issuer too; a caller is known by one of them"
	}
	if u, err := url.Parse(name); !dnsName.MatchString(name) && (err != nil || u.Scheme == "" || u.String() != name) {
		return fmt.Sprintf("%.200q is neither a URI such as spiffe://example.org/billing nor a DNS name", name)
	}
	if other, twice := b.byCertificate[certificateKey(name)]; twice {
		return fmt.Sprintf("is also that of %q", other)
	}
	b.byCertificate[certificateKey(name)] = caller.Name
	return ""
}

// certificateKey makes the names that are one alike: those of DNS do not know case.
func certificateKey(name string) string {
	if dnsName.MatchString(name) {
		return strings.ToLower(name)
	}
	return name
}

func checkCallerName(name string) error {
	if strings.HasPrefix(name, ServicePrefix) {
		return fmt.Errorf("%q begins with %q, which is put before it anyway", name, ServicePrefix)
	}
	if _, err := channel.ParseUser(name); err != nil {
		return fmt.Errorf("%.200q is not 1 to %d bytes of UTF-8 without control characters", name, maxCallerBytes)
	}
	return nil
}

// Known returns nil if an identity is that of a caller, its token being of the issuer
// that the caller is bound to; else a *fault.Error, CALLER_UNKNOWN.
func (c *Callers) Known(identity Identity) error {
	given, ok := c.book.Load().byName[identity.Subject]
	if identity.Kind == ForCallers && ok && (given.issuer == "" || given.issuer == identity.Issuer) {
		return nil
	}
	return unknown(identity.Subject)
}

// OfCertificate returns the caller that a client certificate names by a URI or a DNS
// name. That the certificate is good, and its holder has the key, the TLS server must
// have checked when the connection began. The error is a *fault.Error, CALLER_UNKNOWN, or
// TOKEN_EXPIRED of a certificate that has expired since.
func (c *Callers) OfCertificate(certificate *x509.Certificate) (Identity, error) {
	if time.Now().After(certificate.NotAfter) {
		return Identity{}, fault.New(fault.TokenExpired, "", "the client certificate expired at %s", certificate.NotAfter.UTC().Format(time.RFC3339))
	}
	b := c.book.Load()
	names := slices.Clone(certificate.DNSNames)
	for _, uri := range certificate.URIs {
		names = append(names, uri.String())
	}
	found := ""
	for _, name := range names {
		switch caller, ok := b.byCertificate[certificateKey(name)]; {
		case !ok || caller == found:
		case found != "":
			return Identity{}, fault.New(fault.CallerUnknown, "", "the client certificate is good, but names two callers, %.200q and %.200q", found, caller)
		default:
			found = caller
		}
	}
	if found == "" {
		return Identity{}, fault.New(fault.CallerUnknown, "", "the client certificate is good, but no caller is configured for a name in it")
	}
	return Identity{Kind: ForCallers, Issuer: CertificateIssuer, Subject: found, ExpiresAt: certificate.NotAfter}, nil
}

// MayPublish returns nil if a caller may publish to a channel; else a *fault.Error,
// CALLER_UNKNOWN, or CALLER_DENIED about the field "channel".
func (c *Callers) MayPublish(name string, ch channel.Name) error {
	return c.may(name, ch, "publish", func(g grants) []channel.Pattern { return g.publish }, "the caller %q may not publish to this channel")
}

// MayList is MayPublish for listing a channel's members.
func (c *Callers) MayList(name string, ch channel.Name) error {
	return c.may(name, ch, "presence", func(g grants) []channel.Pattern { return g.presence }, "the caller %q may not list the members of this channel")
}

// MayRead is MayPublish for listing what a channel keeps.
func (c *Callers) MayRead(name string, ch channel.Name) error {
	return c.may(name, ch, "history", func(g grants) []channel.Pattern { return g.history }, "the caller %q may not read the history of this channel")
}

// MayPurge is MayPublish for removing what a channel keeps.
func (c *Callers) MayPurge(name string, ch channel.Name) error {
	return c.may(name, ch, "purge", func(g grants) []channel.Pattern { return g.purge }, "the caller %q may not purge this channel")
}

// MaySubscribe is MayPublish for subscribing users to a channel, or ending that.
func (c *Callers) MaySubscribe(name string, ch channel.Name) error {
	return c.may(name, ch, "subscribe", func(g grants) []channel.Pattern { return g.subscribe }, "the caller %q may not subscribe users to this channel")
}

// MayControl returns nil if a caller may use a method of the ControlService; else a
// *fault.Error, CALLER_UNKNOWN or CALLER_DENIED.
func (c *Callers) MayControl(name, method string) error {
	given, ok := c.book.Load().byName[name]
	switch {
	case !ok:
		return unknown(name)
	case slices.Contains(given.control, method):
		return nil
	default:
		refusal := fault.New(fault.CallerDenied, "", "the caller %q may not use %s", name, method)
		refusal.Rule = given.rule + ".control"
		return refusal
	}
}

// MayLook returns nil if a caller may look at the console; else a *fault.Error,
// CALLER_UNKNOWN or CALLER_DENIED.
func (c *Callers) MayLook(name string) error {
	given, ok := c.book.Load().byName[name]
	switch {
	case !ok:
		return unknown(name)
	case given.console:
		return nil
	default:
		refusal := fault.New(fault.CallerDenied, "", "the caller %q may not look at the console", name)
		refusal.Rule = given.rule + ".console"
		return refusal
	}
}

// Patterns tells in which channels a caller may publish, list members and read what is
// kept; it is for showing.
func (c *Callers) Patterns(name string) (given struct{ Publish, Presence, History []string }) {
	g := c.book.Load().byName[name]
	for _, list := range []struct {
		patterns []channel.Pattern
		texts    *[]string
	}{{g.publish, &given.Publish}, {g.presence, &given.Presence}, {g.history, &given.History}} {
		*list.texts = []string{}
		for _, p := range list.patterns {
			*list.texts = append(*list.texts, p.String())
		}
	}
	return given
}

func (c *Callers) may(name string, ch channel.Name, list string, patterns func(grants) []channel.Pattern, denied string) error {
	given, ok := c.book.Load().byName[name]
	if !ok {
		return unknown(name)
	}
	for _, pattern := range patterns(given) {
		if pattern.Matches(ch) {
			return nil
		}
	}
	refusal := fault.New(fault.CallerDenied, "channel", denied, name)
	refusal.Rule = given.rule + "." + list
	return refusal
}

func unknown(name string) error {
	return fault.New(fault.CallerUnknown, "", "the token is good, but no caller %.200q is configured", name)
}
