package channel_test

import (
	"maps"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

func TestParse(t *testing.T) {
	t.Parallel()
	long := "chat." + strings.Repeat("a", channel.MaxBytes-len("chat."))
	for _, name := range []string{"chat.lobby", "a.b", "chat.a-b_c:d/e@f#g", "chat.x$", "user.alice", "user.a%2Eb", long, "n" + strings.Repeat(".x", 15)} {
		if got, err := channel.Parse(name); err != nil || string(got) != name {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, channel, want string }{
		{"empty", "", "FIELD_REQUIRED (channel): channel is required"},
		{"one token", "chat", `CHANNEL_INVALID (channel): channel has 1 tokens; it needs 2 to 16, joined by "."`},
		{"seventeen tokens", "n" + strings.Repeat(".x", 16), `CHANNEL_INVALID (channel): channel has 17 tokens; it needs 2 to 16, joined by "."`},
		{"300 bytes", "chat." + strings.Repeat("a", 295), "CHANNEL_INVALID (channel): channel has 300 bytes, more than 255"},
		{"empty token", "chat..x", "CHANNEL_INVALID (channel): channel has an empty token"},
		{"dot at the end", "chat.", "CHANNEL_INVALID (channel): channel has an empty token"},
		{"wildcard", "chat.*", `CHANNEL_INVALID (channel): channel has the byte '*'; a token is printable ASCII without space, ".", "*", ">", '"' and "\"`},
		{"tail wildcard", "chat.>", `CHANNEL_INVALID (channel): channel has the byte '>'; a token is printable ASCII without space, ".", "*", ">", '"' and "\"`},
		{"control character", "chat.a\x00b", `CHANNEL_INVALID (channel): channel has the byte '\x00'; a token is printable ASCII without space, ".", "*", ">", '"' and "\"`},
		{"line break", "chat.a\r\nb", `CHANNEL_INVALID (channel): channel has the byte '\r'; a token is printable ASCII without space, ".", "*", ">", '"' and "\"`},
		{"space", "chat.a b", `CHANNEL_INVALID (channel): channel has the byte ' '; a token is printable ASCII without space, ".", "*", ">", '"' and "\"`},
		{"dollar", "chat.$JS", `CHANNEL_INVALID (channel): a token of channel begins with "$"`},
		{"inbox not canonical", "user.%61lice", `CHANNEL_INVALID (channel): an inbox is "user." and one token, the user id percent-encoded canonically`},
		{"inbox in lower-case hex", "user.a%2eb", `CHANNEL_INVALID (channel): an inbox is "user." and one token, the user id percent-encoded canonically`},
		{"inbox of two tokens", "user.a.b", `CHANNEL_INVALID (channel): an inbox is "user." and one token, the user id percent-encoded canonically`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := channel.Parse(tt.channel)
			if err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestInbox(t *testing.T) {
	t.Parallel()
	for user, want := range map[string]string{
		"alice": "user.alice", "a.b@c": "user.a%2Eb@c", "100%": "user.100%25", "$x": "user.%24x", "x$": "user.x$",
		"Zoë": "user.Zo%C3%AB", `"\*>`: "user.%22%5C%2A%3E", "a b": "user.a%20b",
	} {
		u, err := channel.ParseUser(user)
		if err != nil || string(u.Inbox()) != want {
			t.Errorf("%q: %q, %v; want %q", user, u.Inbox(), err, want)
		}
	}
}

func TestInboxRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		user, err := channel.ParseUser(rapid.String().Draw(t, "user"))
		if err != nil {
			return
		}
		name, err := channel.Parse(string(user.Inbox()))
		if err != nil {
			t.Fatalf("%q has the inbox %q: %v", user, user.Inbox(), err)
		}
		if owner, ok := name.InboxOwner(); !ok || owner != user {
			t.Fatalf("%q came back as %q", user, owner)
		}
	})
}

func TestParseUserRefuses(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"", strings.Repeat("a", 129), "a\nb", "a\xff", strings.Repeat("ë", 50)} {
		if _, err := channel.ParseUser(id); err == nil || fault.From(err).Field != "userId" {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func TestPatternMatch(t *testing.T) {
	t.Parallel()
	tests := []struct {
		pattern, channel string
		want             map[string]string // nil: no match
	}{
		{"chat.{room}", "chat.lobby", map[string]string{"room": "lobby"}},
		{"chat.{room}", "chat.lobby.x", nil},
		{"chat.{room}", "news.lobby", nil},
		{"chat.{room}.typing", "chat.lobby.typing", map[string]string{"room": "lobby"}},
		{"chat.{room}.typing", "chat.lobby", nil},
		{"invoices.{rest...}", "invoices.2026.11", map[string]string{"rest": "2026.11"}},
		{"invoices.{rest...}", "invoices.2026", map[string]string{"rest": "2026"}},
		{"{all...}", "anything.at.all", map[string]string{"all": "anything.at.all"}},
		{"chat.lobby", "chat.lobby", map[string]string{}},
		{"user.{id}", "user.a%2Eb", map[string]string{"id": "a.b"}},
	}
	for _, tt := range tests {
		p, err := channel.ParsePattern(tt.pattern)
		if err != nil {
			t.Fatalf("%s: %v", tt.pattern, err)
		}
		name, err := channel.Parse(tt.channel)
		if err != nil {
			t.Fatalf("%s: %v", tt.channel, err)
		}
		got, ok := p.Match(name)
		if ok != (tt.want != nil) || !maps.Equal(got, tt.want) {
			t.Errorf("%s on %s: %v, %v; want %v", tt.pattern, tt.channel, got, ok, tt.want)
		}
	}
	if _, ok := (channel.Pattern{}).Match("chat.lobby"); ok {
		t.Error("the zero pattern matches")
	}
}

func TestParsePatternRefuses(t *testing.T) {
	t.Parallel()
	for _, pattern := range []string{"", "chat", "{ns}.x", "chat.{a}.{a}", "chat.{rest...}.x", "chat.{A}", "chat.{a", "chat.a}", "chat.*", "chat.x{a}", "chat." + strings.Repeat("x.", 16)} {
		if p, err := channel.ParsePattern(pattern); err == nil {
			t.Errorf("%q was read as %v", pattern, p)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"chat.lobby", "user.a%2Eb", "chat.*", "..", "user.%"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, err := channel.Parse(s)
		if err != nil {
			return
		}
		if string(name) != s || strings.ContainsAny(s, " *>\"\\\x00\r\n") || len(s) > channel.MaxBytes {
			t.Errorf("%q was taken", s)
		}
	})
}

func FuzzParsePattern(f *testing.F) {
	for _, seed := range []string{"chat.{room}", "{rest...}", "a.{b}.c.{d...}"} {
		f.Add(seed, "chat.lobby")
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		p, err := channel.ParsePattern(pattern)
		if err != nil {
			return
		}
		n, err := channel.Parse(name)
		if err != nil {
			return
		}
		if values, ok := p.Match(n); ok && len(values) != len(p.Variables()) {
			t.Errorf("%q on %q: %v", pattern, name, values)
		}
	})
}

func TestPatternCovers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, other string
		want           bool
	}{
		{"chat.{room}", "chat.{room}", true},
		{"chat.{room}", "chat.staff", true},
		{"chat.staff", "chat.{room}", false},
		{"chat.{room}", "chat.{rest...}", false},
		{"chat.{rest...}", "chat.{room}", true},
		{"chat.{rest...}", "chat.{room}.{x}", true},
		{"chat.{rest...}", "chat.a.{rest...}", true},
		{"chat.a.{rest...}", "chat.{rest...}", false},
		{"chat.a.{rest...}", "chat.a", false},
		{"chat.{a}.{b}", "chat.{a}", false},
		{"chat.{a}", "chat.{a}.{b}", false},
		{"chat.{a}.b", "chat.a.{b}", false},
		{"{rest...}", "chat.{room}", true},
		{"chat.{rest...}", "{rest...}", false},
		{"chat.{room}", "news.{room}", false},
	} {
		pattern, err := channel.ParsePattern(c.pattern)
		if err != nil {
			t.Fatal(err)
		}
		other, err := channel.ParsePattern(c.other)
		if err != nil {
			t.Fatal(err)
		}
		if got := pattern.Covers(other); got != c.want {
			t.Errorf("%s covers %s: %t", c.pattern, c.other, got)
		}
	}
	if (channel.Pattern{}).Covers(channel.Pattern{}) {
		t.Error("what matches nothing covers something")
	}
}
