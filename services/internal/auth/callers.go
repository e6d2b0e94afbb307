package auth

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// Callers knows which backend service may use which channels. It is immutable.
type Callers struct {
	byName map[string]grants
}

// grants are the patterns given to one caller.
type grants struct {
	publish, presence, history, purge []channel.Pattern
}

// maxCallerBytes bounds a caller's name, which names the publisher of its messages.
const maxCallerBytes = 128

// ControlMethods lists the methods of the ControlService, which a caller may be given
// one by one.
func ControlMethods() []string {
	return []string{"DisconnectUser", "DisconnectConnection", "SubscribeUser", "UnsubscribeUser", "RevokeTokens", "ListConnections"}
}

// NewCallers compiles the callers' patterns. The error has a line a problem.
func NewCallers(callers []Caller) (*Callers, error) {
	compiled, problems := compileCallers(callers)
	var errs []error
	for _, line := range problems {
		errs = append(errs, errors.New("callers"+line))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return compiled, nil
}

// CallerProblems lists what is wrong with a list of callers, a line each, each
// beginning with its key ("[1].publish[0]: …").
func CallerProblems(callers []Caller) []string {
	_, problems := compileCallers(callers)
	return problems
}

func compileCallers(callers []Caller) (*Callers, []string) {
	c := &Callers{byName: make(map[string]grants, len(callers))}
	var problems []string
	for i, caller := range callers {
		at := fmt.Sprintf("[%d].", i)
		if err := checkCallerName(caller.Name); err != nil {
			problems = append(problems, at+"name: "+err.Error())
		} else if _, twice := c.byName[caller.Name]; twice {
			problems = append(problems, fmt.Sprintf("%sname: there is already a caller %q", at, caller.Name))
		}
		publish, publishProblems := parsePatterns(at+"publish", caller.Publish)
		presence, presenceProblems := parsePatterns(at+"presence", caller.Presence)
		history, historyProblems := parsePatterns(at+"history", caller.History)
		purge, purgeProblems := parsePatterns(at+"purge", caller.Purge)
		problems = slices.Concat(problems, publishProblems, presenceProblems, historyProblems, purgeProblems)
		c.byName[caller.Name] = grants{publish: publish, presence: presence, history: history, purge: purge}
	}
	return c, problems
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

func parsePatterns(key string, texts []string) (patterns []channel.Pattern, problems []string) {
	for i, text := range texts {
		pattern, err := channel.ParsePattern(text)
		if err != nil {
			problems = append(problems, fmt.Sprintf("%s[%d]: %v", key, i, err))
			continue
		}
		patterns = append(patterns, pattern)
	}
	return patterns, problems
}

// MayPublish returns nil if a caller may publish to a channel; else a *fault.Error,
// CALLER_UNKNOWN, or CALLER_DENIED about the field "channel".
func (c *Callers) MayPublish(name string, ch channel.Name) error {
	given, err := c.grantsOf(name)
	if err != nil {
		return err
	}
	return covered(given.publish, ch, "the caller %q may not publish to this channel", name)
}

// MayList is MayPublish for listing a channel's members.
func (c *Callers) MayList(name string, ch channel.Name) error {
	given, err := c.grantsOf(name)
	if err != nil {
		return err
	}
	return covered(given.presence, ch, "the caller %q may not list the members of this channel", name)
}

// MayRead is MayPublish for listing what a channel keeps.
func (c *Callers) MayRead(name string, ch channel.Name) error {
	given, err := c.grantsOf(name)
	if err != nil {
		return err
	}
	return covered(given.history, ch, "the caller %q may not read the history of this channel", name)
}

// MayPurge is MayPublish for removing what a channel keeps.
func (c *Callers) MayPurge(name string, ch channel.Name) error {
	given, err := c.grantsOf(name)
	if err != nil {
		return err
	}
	return covered(given.purge, ch, "the caller %q may not purge this channel", name)
}

func (c *Callers) grantsOf(name string) (grants, error) {
	given, ok := c.byName[name]
	if !ok {
		return grants{}, fault.New(fault.CallerUnknown, "", "the token is good, but no caller %.200q is configured", name)
	}
	return given, nil
}

func covered(patterns []channel.Pattern, ch channel.Name, format, name string) error {
	for _, pattern := range patterns {
		if _, ok := pattern.Match(ch); ok {
			return nil
		}
	}
	return fault.New(fault.CallerDenied, "channel", format, name)
}
