package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/config"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/namespace"
	"github.com/carillon-rt/carillon/services/presence/policy"
)

type canCommand struct {
	User      string   `placeholder:"NAME" xor:"who" required:"" help:"User who wants something."`
	Service   string   `placeholder:"NAME" xor:"who" required:"" help:"Caller that wants something."`
	Token     string   `placeholder:"JWT" xor:"who" required:"" help:"Token of the user or caller, which must be good."`
	Claim     []string `placeholder:"KEY=VALUE" sep:"none" help:"Claim of the user's token; VALUE is JSON, or else a text. May be repeated."`
	Subscribe string   `placeholder:"CHANNEL" xor:"what" required:"" help:"Channel to receive messages of; for a caller, to subscribe users to."`
	Publish   string   `placeholder:"CHANNEL" xor:"what" required:"" help:"Channel to publish to."`
	Presence  string   `placeholder:"CHANNEL" xor:"what" required:"" help:"Channel whose members to see."`
	History   string   `placeholder:"CHANNEL" xor:"what" required:"" help:"Channel whose past messages to read."`
	Type      string   `placeholder:"TYPE" help:"Type of the message to publish: its member \"type\"."`

	config.Flags
}

func newCanCommand() canCommand { return canCommand{Flags: config.NewFlags(config.NoRole)} }

// errDenied is the answer no, which has been printed.
var errDenied = errors.New("denied")

// Run prints whether the configuration allows it, and why. Without a configuration file
// that of dev answers.
func (c *canCommand) Run(env environment) error {
	action, text := c.wanted()
	name, err := channel.Parse(text)
	if err != nil {
		return usageError{fmt.Errorf("--%s: %s", action, fault.From(err).Message)}
	}
	claims, err := parseClaims(c.Claim)
	if err != nil {
		return usageError{err}
	}
	if c.User == "" && len(claims) > 0 {
		return usageError{errors.New("--claim: goes with --user")}
	}
	if c.Type != "" && action != policy.Publish {
		return usageError{errors.New("--type: goes with --publish")}
	}
	loaded, places, err := c.load(env)
	if err != nil {
		return err
	}
	who := auth.Identity{Kind: auth.ForClients, Subject: c.User, Claims: claims}
	switch {
	case c.Service != "":
		who = auth.Identity{Kind: auth.ForCallers, Subject: c.Service}
	case c.Token != "":
		if who, err = identityOf(env, loaded, c.Token); err != nil {
			return usageError{err}
		}
	}
	answer := answer{out: env.stdout, config: loaded, places: places}
	if who.Kind == auth.ForCallers {
		return answer.caller(who, action, name)
	}
	user, err := channel.ParseUser(who.Subject)
	if err != nil {
		return usageError{fmt.Errorf("--user: %s", fault.From(err).Message)}
	}
	return answer.user(policy.Question{User: user, Claims: who.Claims, Action: action, Channel: name, MessageType: c.Type})
}

func (c *canCommand) wanted() (policy.Action, string) {
	switch {
	case c.Subscribe != "":
		return policy.Subscribe, c.Subscribe
	case c.Publish != "":
		return policy.Publish, c.Publish
	case c.Presence != "":
		return policy.Presence, c.Presence
	default:
		return policy.History, c.History
	}
}

// load loads the configuration or, if it says nothing of namespaces, that of dev, whose
// keys are there if dev ran.
func (c *canCommand) load(env environment) (*config.Config, config.Places, error) {
	loaded, places, err := config.LoadWithPlaces(&c.Flags, config.NoRole, env.getenv, env.checks...)
	if err != nil || len(loaded.Namespaces) > 0 {
		return loaded, places, err
	}
	return config.LoadWithPlaces(&c.Flags, config.Dev, env.getenv, env.checks...)
}

// identityOf verifies a token of a user or a caller. Where the configuration has no
// issuer for them, those of dev are believed.
func identityOf(env environment, c *config.Config, token string) (auth.Identity, error) {
	var last error
	for _, kind := range []auth.Kind{auth.ForClients, auth.ForCallers} {
		believed := c.Auth
		if !slices.ContainsFunc(believed.Issuers, func(i auth.Issuer) bool { return i.For == kind }) {
			believed.Issuers = config.DevIssuers(c.DataDir)
		}
		verifier, err := verifierOf(believed, kind, config.Secrets(env.getenv))
		if err != nil {
			return auth.Identity{}, err
		}
		identity, err := verifyOnce(env.ctx, verifier, token)
		if err == nil {
			return identity, nil
		}
		if last == nil || fault.From(last).Reason == fault.TokenAudienceInvalid { // it is of the other kind
			last = err
		}
	}
	return auth.Identity{}, fmt.Errorf("--token: the token is not good: %s: %s", fault.From(last).Reason, fault.From(last).Message)
}

// verifyOnce verifies a token; keys that an issuer publishes are fetched meanwhile.
func verifyOnce(ctx context.Context, verifier *auth.Verifier, token string) (auth.Identity, error) {
	fetching, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { verifier.Run(fetching, slog.New(slog.DiscardHandler)) })
	defer running.Wait()
	defer stop()
	return verifier.Verify(ctx, token)
}

// answer prints an answer.
type answer struct {
	out    io.Writer
	config *config.Config
	places config.Places
}

// print prints the verdict and the lines that say why.
func (a answer) print(allowed bool, lines ...string) error {
	verdict := "denied"
	if allowed {
		verdict = "allowed"
	}
	if _, err := fmt.Fprintln(a.out, strings.Join(append([]string{verdict}, lines...), "\n")); err != nil {
		return err
	}
	if !allowed {
		return errDenied
	}
	return nil
}

// caller answers for a caller, whom patterns allow things.
func (a answer) caller(who auth.Identity, action policy.Action, wanted channel.Name) error {
	i := slices.IndexFunc(a.config.Callers, func(c auth.Caller) bool { return c.Name == who.Subject })
	if i < 0 {
		return a.print(false, fmt.Sprintf("  there is no caller %q", who.Subject))
	}
	caller := a.config.Callers[i]
	if who.Issuer != "" { // by its token
		callers, err := auth.NewCallers(a.config.Callers, a.config.Auth.Issuers...)
		if err != nil {
			return err
		}
		if callers.Known(who) != nil {
			return a.print(false, a.at("caller", fmt.Sprintf("callers[%d]", i)), fmt.Sprintf("  which is not known by the tokens of the issuer %q", who.Issuer))
		}
	}
	if action == policy.Subscribe && !slices.Contains(caller.Control, "SubscribeUser") {
		return a.print(false, a.at("caller", fmt.Sprintf("callers[%d]", i)), "  whose control does not have SubscribeUser")
	}
	patterns := map[policy.Action][]string{
		policy.Subscribe: caller.Subscribe, policy.Publish: caller.Publish, policy.Presence: caller.Presence, policy.History: caller.History,
	}[action]
	for j, text := range patterns {
		if pattern, err := channel.ParsePattern(text); err == nil {
			if _, ok := pattern.Match(wanted); ok {
				return a.print(true, a.at("pattern", fmt.Sprintf("callers[%d].%s[%d]", i, action, j)), "  which is: "+text)
			}
		}
	}
	return a.print(false, a.at("caller", fmt.Sprintf("callers[%d]", i)), fmt.Sprintf("  of whose %d patterns for %s none covers the channel", len(patterns), action))
}

// user answers for a user, about whom the rules decide.
func (a answer) user(q policy.Question) error {
	index := slices.IndexFunc(a.config.Namespaces, func(n namespace.Namespace) bool { return n.Name == q.Channel.Namespace() })
	if index < 0 {
		return a.print(false, fmt.Sprintf("  there is no namespace %q", q.Channel.Namespace()))
	}
	if owner, _ := q.Channel.InboxOwner(); owner == q.User && (q.Action == policy.Subscribe || q.Action == policy.History) {
		return a.print(true, "  it is the user's own inbox, which wants no rule")
	}
	if len(a.config.Authorization.Addresses) > 0 {
		return usageError{errors.New("authorization.addresses: the service there decides what users may do, not the rules; ask that")}
	}
	rules, problems := policy.Compile(a.config.Namespaces)
	if len(problems) > 0 {
		return config.Problems(problems)
	}
	e := rules.Explain(q)
	if e.Index < 0 {
		return a.print(false, "  "+e.Message, a.at("namespace", fmt.Sprintf("namespaces[%d]", index)))
	}
	lines := []string{a.at("rule", fmt.Sprintf("namespaces[%d].rules[%d].%s", index, e.Index, e.Key)), "  channel: " + e.Pattern}
	if e.Expression == "" {
		lines = append(lines, fmt.Sprintf("  it says nothing of %s, so nobody may", e.Key))
	} else {
		lines = append(lines, fmt.Sprintf("  %s: %s", e.Key, e.Expression))
	}
	for _, v := range e.Operands {
		lines = append(lines, fmt.Sprintf("    %s: %s", v.Text, v.Value))
	}
	for _, v := range e.Names {
		lines = append(lines, fmt.Sprintf("    %s = %s", v.Text, v.Value))
	}
	if !e.Allowed {
		lines = append(lines, "  the user is told: "+e.Message)
	}
	return a.print(e.Allowed, lines...)
}

// at names what decided, and where it was set.
func (a answer) at(what, path string) string {
	if place := a.places.Of(path); place != "" {
		return fmt.Sprintf("  %s: %s (%s)", what, path, place)
	}
	return fmt.Sprintf("  %s: %s", what, path)
}
