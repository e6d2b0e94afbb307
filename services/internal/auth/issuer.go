package auth

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/golang-jwt/jwt/v5"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

// issuer is an Issuer ready for use. It is immutable.
type issuer struct {
	Issuer
	methods map[string]jwt.SigningMethod
	keys    keySource
}

// keySource has the keys of an issuer.
type keySource interface {
	// find returns the keys of which one must have signed a token whose header has this
	// algorithm and key id ("": none). It may wait; its error is a *fault.Error.
	find(ctx context.Context, method jwt.SigningMethod, id string) ([]any, error)
	// version is another value whenever the keys may be others.
	version() any
}

var issuerName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// Problems lists what is wrong with a list of issuers, a line each, each beginning
// with its key ("[1].secret: …") and none showing a secret.
func Problems(issuers []Issuer, load Load) []string {
	var problems []string
	for i, configured := range issuers {
		at := func(j int) string { return fmt.Sprintf("the same as that of [%d]", j) }
		add := func(line string) {
			dot := "."
			if line == noKeys {
				dot = ": "
			}
			problems = append(problems, fmt.Sprintf("[%d]%s%s", i, dot, line))
		}
		_, own := compile(configured, load)
		for _, line := range own {
			add(line)
		}
		for j, earlier := range issuers[:i] {
			if earlier.Name == configured.Name {
				add("name: is " + at(j))
			}
			if earlier.For != configured.For {
				continue
			}
			if earlier.Issuer == configured.Issuer {
				add("issuer: is " + at(j) + ", which is also for " + string(configured.For))
			}
			if configured.For == ForClients {
				if line := prefixProblem(configured, earlier); line != "" {
					add(line)
				}
			}
		}
	}
	return problems
}

// prefixProblem says why two issuers for clients could name the same user.
func prefixProblem(i, earlier Issuer) string {
	a, b := i.UserPrefix, earlier.UserPrefix
	switch {
	case a == "" && b == "":
		return fmt.Sprintf("user_prefix: is required, since %q has none: only one issuer for clients may do without", earlier.Name)
	case a != "" && b != "" && (strings.HasPrefix(a, b) || strings.HasPrefix(b, a)):
		return fmt.Sprintf("user_prefix: %q and the %q of %q begin alike, so two users could get one id", a, b, earlier.Name)
	default:
		return ""
	}
}

// compile checks one issuer and loads its keys, or makes a set of those to be fetched;
// the problems are lines "key: …", or noKeys.
func compile(i Issuer, load Load) (*issuer, []string) {
	problems := misuses(i)
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	compiled := &issuer{Issuer: i, methods: map[string]jwt.SigningMethod{}}
	if len(i.Algorithms) == 0 {
		add("algorithms: is required")
	}
	for _, name := range i.Algorithms {
		if method := jwt.GetSigningMethod(name); method != nil && method != jwt.SigningMethodNone {
			compiled.methods[name] = method
		} else {
			add("algorithms: %q is not one of %s", name, strings.Join(algorithms(), " "))
		}
	}
	if line := oneOfKeys(i); line != "" {
		add("%s", line)
		return nil, problems
	}
	if i.JWKSURL != "" {
		for _, name := range i.Algorithms {
			if _, symmetric := compiled.methods[name].(*jwt.SigningMethodHMAC); symmetric {
				add("algorithms: %s does not fit jwks_url, whose keys anybody may know", name)
			}
		}
		compiled.keys = newKeySet(i)
		return compiled, problems
	}
	keys, lines := compiled.loadKeys(load)
	problems = append(problems, lines...)
	if keys == nil {
		return nil, problems
	}
	compiled.keys = holding(keys)
	return compiled, problems
}

// misuses lists what one issuer may not say, whatever its keys are.
func misuses(i Issuer) []string {
	var problems []string
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if !issuerName.MatchString(i.Name) {
		add("name: %q is not a name: letters, digits, - and _, 1 to 64", i.Name)
	}
	switch i.Name {
	case string(ForRoles): // of the identities that RoleKey makes
		add("name: %q is kept for Carillon's roles", i.Name)
	case AnonymousIssuer:
		add("name: %q is kept for clients without a token", i.Name)
	case CertificateIssuer:
		add("name: %q is kept for callers with a client certificate", i.Name)
	}
	if i.For != ForClients && i.For != ForCallers {
		add("for: %q is not clients or callers", i.For)
	}
	if i.For == ForCallers && i.UserPrefix != "" {
		add("user_prefix: is only for clients")
	}
	if i.For == ForCallers && i.SubscriptionsClaim != "" {
		add("subscriptions_claim: is only for clients")
	}
	if strings.HasPrefix(i.UserPrefix, ServicePrefix) {
		add("user_prefix: begins with %q, which is kept for callers", ServicePrefix)
	}
	if i.For == ForClients && i.Audience == CallerAudience {
		add("audience: %q is never a client's", i.Audience)
	}
	if i.Audience == RoleAudience {
		add("audience: %q is kept for Carillon's roles", i.Audience)
	}
	if !i.PreviousSecret.IsZero() && i.Secret.IsZero() {
		add("previous_secret: is for secret, which is not given")
	}
	return problems
}

// AnonymousProblems lists why users without a token could be taken for others, beside
// these issuers; each line begins with its key ("user_prefix: …").
func AnonymousProblems(a Anonymous, issuers []Issuer) []string {
	if !a.Enabled {
		return nil
	}
	var problems []string
	add := func(format string, args ...any) {
		problems = append(problems, fmt.Sprintf("user_prefix: "+format, args...))
	}
	if strings.HasPrefix(a.UserPrefix, ServicePrefix) {
		add("begins with %q, which is kept for callers", ServicePrefix)
	}
	if _, err := channel.ParseUser(NewAnonymous(a.UserPrefix).Subject); err != nil || a.UserPrefix == "" {
		add("makes no user id: it needs at least a character, none of them a control character, and leaves 26 of 128 bytes")
	}
	for _, i := range issuers {
		if b := i.UserPrefix; i.For == ForClients && b != "" && (strings.HasPrefix(a.UserPrefix, b) || strings.HasPrefix(b, a.UserPrefix)) {
			add("%q and the %q of the issuer %q begin alike, so two users could get one id", a.UserPrefix, b, i.Name)
		}
	}
	return problems
}

func algorithms() []string {
	all := slices.DeleteFunc(jwt.GetAlgorithms(), func(name string) bool { return name == jwt.SigningMethodNone.Alg() })
	slices.Sort(all)
	return all
}
