package auth_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

func TestCallers(t *testing.T) {
	t.Parallel()
	callers, err := auth.NewCallers([]auth.Caller{
		{Name: "billing", Publish: []string{"user.{id}", "invoices.{rest...}"}, Presence: []string{"chat.{room}"}},
		{Name: "idle"},
		{Name: "dev", Publish: []string{"{rest...}"}, Presence: []string{"{rest...}"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		caller        string
		channel       channel.Name
		publish, list fault.Reason
	}{
		{"billing", "user.a%2Eb", "", fault.CallerDenied},
		{"billing", "invoices.2026.11", "", fault.CallerDenied},
		{"billing", "chat.lobby", fault.CallerDenied, ""},
		{"billing", "chat.lobby.side", fault.CallerDenied, fault.CallerDenied},
		{"idle", "chat.lobby", fault.CallerDenied, fault.CallerDenied},
		{"dev", "chat.lobby.side", "", ""},
		{"Billing", "user.alice", fault.CallerUnknown, fault.CallerUnknown},
		{"", "user.alice", fault.CallerUnknown, fault.CallerUnknown},
	} {
		wantCallerError(t, callers.MayPublish(c.caller, c.channel), c.publish)
		wantCallerError(t, callers.MayList(c.caller, c.channel), c.list)
	}
}

// What a caller may read or purge is given by itself, and by nothing else.
func TestCallersOfTheHistory(t *testing.T) {
	t.Parallel()
	callers, err := auth.NewCallers([]auth.Caller{
		{Name: "audit", History: []string{"chat.{rest...}"}, Purge: []string{"chat.{room}"}},
		{Name: "sender", Publish: []string{"{rest...}"}, Presence: []string{"{rest...}"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		caller      string
		channel     channel.Name
		read, purge fault.Reason
	}{
		{"audit", "chat.lobby", "", ""},
		{"audit", "chat.lobby.side", "", fault.CallerDenied},
		{"audit", "user.alice", fault.CallerDenied, fault.CallerDenied},
		{"sender", "chat.lobby", fault.CallerDenied, fault.CallerDenied},
		{"nobody", "chat.lobby", fault.CallerUnknown, fault.CallerUnknown},
	} {
		wantCallerError(t, callers.MayRead(c.caller, c.channel), c.read)
		wantCallerError(t, callers.MayPurge(c.caller, c.channel), c.purge)
	}
	wantCallerError(t, callers.MayPublish("audit", "chat.lobby"), fault.CallerDenied)
	wantCallerError(t, callers.MayList("audit", "chat.lobby"), fault.CallerDenied)
}

func wantCallerError(t *testing.T, err error, reason fault.Reason) {
	t.Helper()
	f, ok := errors.AsType[*fault.Error](err)
	switch {
	case reason == "" && err == nil:
	case !ok || f.Reason != reason:
		t.Errorf("error %v, want %q", err, reason)
	case reason == fault.CallerDenied && f.Field != "channel":
		t.Errorf("field %q, want channel", f.Field)
	}
}

func TestCallerProblems(t *testing.T) {
	t.Parallel()
	callers := []auth.Caller{
		{Name: ""},
		{Name: "billing", Publish: []string{"user.{id}", "bare", "a.*"}, Presence: []string{"{x}.y"}, History: []string{"bare"}, Purge: []string{"user.{id}", "bare"}},
		{Name: "billing"},
		{Name: "service:x"},
		{Name: strings.Repeat("x", 129)},
	}
	wantLines(t, auth.CallerProblems(callers), []string{
		"[0].name: ", "[1].publish[1]: ", "[1].publish[2]: ", "[1].presence[0]: ", "[1].history[0]: ", "[1].purge[1]: ",
		`[2].name: there is already a caller "billing"`, "[3].name: ", "[4].name: ",
	})
	if _, err := auth.NewCallers(callers); err == nil || strings.Count(err.Error(), "\n") != 8 {
		t.Errorf("NewCallers: %v, want a line a problem", err)
	}
}
