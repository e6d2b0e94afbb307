package auth_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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

// The console is given by itself, and gives nothing else.
func TestCallersOfTheConsole(t *testing.T) {
	t.Parallel()
	callers, err := auth.NewCallers([]auth.Caller{
		{Name: "oncall", Console: true},
		{Name: "sender", Publish: []string{"{rest...}"}, Control: auth.ControlMethods()},
	})
	if err != nil {
		t.Fatal(err)
	}
	for caller, reason := range map[string]fault.Reason{"oncall": "", "sender": fault.CallerDenied, "nobody": fault.CallerUnknown} {
		err := callers.MayLook(caller)
		if refusal, _ := errors.AsType[*fault.Error](err); (err == nil) != (reason == "") || refusal != nil && refusal.Reason != reason {
			t.Errorf("%s: %v, want %q", caller, err, reason)
		}
	}
	wantCallerError(t, callers.MayRead("oncall", "chat.lobby"), fault.CallerDenied)
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

func callersIssuer(name string) auth.Issuer {
	i := hmacIssuer(auth.ForCallers)
	i.Name, i.Issuer = name, name
	return i
}

// A caller is known by the issuer of its tokens too: the same name from another one is
// somebody else.
func TestCallersAreBoundToAnIssuer(t *testing.T) {
	t.Parallel()
	one, two := callersIssuer("one"), callersIssuer("two")
	clients := hmacIssuer(auth.ForClients)
	identity := func(kind auth.Kind, issuer, name string) auth.Identity {
		return auth.Identity{Kind: kind, Issuer: issuer, Subject: name}
	}
	both, err := auth.NewCallers([]auth.Caller{
		{Name: "billing", Issuer: "one"}, {Name: "audit", Issuer: "two"}, {Name: "mesh", Certificate: "mesh.example"},
	}, one, clients, two)
	if err != nil {
		t.Fatal(err)
	}
	alone, err := auth.NewCallers([]auth.Caller{{Name: "billing"}}, clients, one)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		callers  *auth.Callers
		identity auth.Identity
		known    bool
	}{
		{both, identity(auth.ForCallers, "one", "billing"), true},
		{both, identity(auth.ForCallers, "two", "billing"), false},
		{both, identity(auth.ForCallers, "two", "audit"), true},
		{both, identity(auth.ForCallers, "one", "nobody"), false},
		{both, identity(auth.ForCallers, "one", ""), false},
		{both, identity(auth.ForClients, "one", "billing"), false},
		{both, identity(auth.ForCallers, "one", "mesh"), false}, // which is known by its certificate alone
		{both, identity(auth.ForCallers, auth.CertificateIssuer, "billing"), false},
		{alone, identity(auth.ForCallers, "one", "billing"), true}, // the only issuer needs no naming
		{alone, identity(auth.ForCallers, "two", "billing"), false},
	} {
		want := fault.CallerUnknown
		if c.known {
			want = ""
		}
		wantCallerError(t, c.callers.Known(c.identity), want)
	}
}

func TestCallersByCertificate(t *testing.T) {
	t.Parallel()
	callers, err := auth.NewCallers([]auth.Caller{
		{Name: "billing", Certificate: "spiffe://example.org/billing", Publish: []string{"user.{id}"}},
		{Name: "audit", Certificate: "Audit.example"},
		{Name: "token"},
	})
	if err != nil {
		t.Fatal(err)
	}
	until := time.Now().Add(time.Hour).Truncate(time.Second)
	for name, c := range map[string]struct {
		dns  []string
		uris []string
		want string // "": refused
		says string
	}{
		"by URI":               {nil, []string{"spiffe://example.org/billing"}, "billing", ""},
		"by DNS name":          {[]string{"other.example", "audit.EXAMPLE"}, nil, "audit", ""},
		"by both, alike":       {[]string{"audit.example", "AUDIT.example"}, nil, "audit", ""},
		"of nobody":            {[]string{"other.example"}, []string{"spiffe://example.org/other"}, "", "no caller is configured for a name in it"},
		"a longer URI":         {nil, []string{"spiffe://example.org/billing/x"}, "", "no caller"},
		"another case of path": {nil, []string{"spiffe://example.org/Billing"}, "", "no caller"},
		"a wildcard":           {[]string{"*.example"}, nil, "", "no caller"},
		"a caller's name":      {[]string{"token"}, nil, "", "no caller"},
		"without names":        {nil, nil, "", "no caller"},
		"of two callers":       {[]string{"audit.example"}, []string{"spiffe://example.org/billing"}, "", "names two callers"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			certificate := &x509.Certificate{DNSNames: c.dns, NotAfter: until, Subject: pkix.Name{CommonName: "audit.example"}}
			for _, text := range c.uris {
				uri, err := url.Parse(text)
				if err != nil {
					t.Fatal(err)
				}
				certificate.URIs = append(certificate.URIs, uri)
			}
			identity, err := callers.OfCertificate(certificate)
			if c.want == "" {
				wantCallerError(t, err, fault.CallerUnknown)
				if !strings.Contains(err.Error(), c.says) {
					t.Errorf("error %v, want %q", err, c.says)
				}
				return
			}
			if err != nil || identity.Kind != auth.ForCallers || identity.Issuer != auth.CertificateIssuer || identity.Subject != c.want || !identity.ExpiresAt.Equal(until) {
				t.Fatalf("OfCertificate = %+v, %v", identity, err)
			}
			if err := callers.Known(identity); err != nil {
				t.Error(err)
			}
		})
	}
}

// A connection may outlive the certificate with which it began: its calls do not.
func TestACertificateThatExpiresWhileConnected(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		callers, err := auth.NewCallers([]auth.Caller{{Name: "audit", Certificate: "audit.example"}})
		if err != nil {
			t.Fatal(err)
		}
		certificate := &x509.Certificate{DNSNames: []string{"audit.example"}, NotAfter: time.Now().Add(time.Hour)}
		if _, err := callers.OfCertificate(certificate); err != nil {
			t.Error(err)
		}
		pass(time.Hour + time.Second)
		_, err = callers.OfCertificate(certificate)
		wantCallerError(t, err, fault.TokenExpired)
		if !strings.Contains(err.Error(), "the client certificate expired at 2000-01-01T01:00:00Z") {
			t.Error(err)
		}
	})
}

// Control methods and the channels they may name are given one by one, and by nothing
// else.
func TestCallersOfTheControl(t *testing.T) {
	t.Parallel()
	everywhere := []string{"{rest...}"}
	callers, err := auth.NewCallers([]auth.Caller{
		{Name: "moderation", Control: []string{"DisconnectUser", "SubscribeUser"}, Subscribe: []string{"chat.{room}"}},
		{Name: "sender", Publish: everywhere, Presence: everywhere, History: everywhere, Purge: everywhere},
	})
	if err != nil {
		t.Fatal(err)
	}
	for method, want := range map[string]fault.Reason{
		"DisconnectUser": "", "SubscribeUser": "", "RevokeTokens": fault.CallerDenied, "disconnectuser": fault.CallerDenied, "": fault.CallerDenied,
	} {
		err := callers.MayControl("moderation", method)
		if f, ok := errors.AsType[*fault.Error](err); (want == "") != (err == nil) || want != "" && (!ok || f.Reason != want || f.Field != "") {
			t.Errorf("%q: error %v, want %q", method, err, want)
		}
	}
	for _, method := range auth.ControlMethods() {
		if err := callers.MayControl("sender", method); fault.From(err) == nil || fault.From(err).Reason != fault.CallerDenied {
			t.Errorf("%s: error %v", method, err)
		}
	}
	wantCallerError(t, callers.MayControl("nobody", "DisconnectUser"), fault.CallerUnknown)
	wantCallerError(t, callers.MaySubscribe("moderation", "chat.lobby"), "")
	wantCallerError(t, callers.MaySubscribe("moderation", "news.today"), fault.CallerDenied)
	wantCallerError(t, callers.MaySubscribe("sender", "chat.lobby"), fault.CallerDenied)
	wantCallerError(t, callers.MayPublish("moderation", "chat.lobby"), fault.CallerDenied)
}

func TestCallersAreReplacedWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	callers, err := auth.NewCallers([]auth.Caller{{Name: "billing", Publish: []string{"user.{id}"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := callers.Replace([]auth.Caller{{Name: "audit"}, {Name: "billing", Publish: []string{"bare"}}}); err == nil {
		t.Error("Replace takes a bad pattern")
	}
	wantCallerError(t, callers.MayPublish("billing", "user.alice"), "")
	wantCallerError(t, callers.MayPublish("audit", "user.alice"), fault.CallerUnknown)
	if err := callers.Replace([]auth.Caller{{Name: "audit"}}); err != nil {
		t.Fatal(err)
	}
	wantCallerError(t, callers.MayPublish("billing", "user.alice"), fault.CallerUnknown)
	wantCallerError(t, callers.MayPublish("audit", "user.alice"), fault.CallerDenied)
}

func TestCallerProblemsBesideIssuers(t *testing.T) {
	t.Parallel()
	one, two := callersIssuer("one"), callersIssuer("two")
	clients := hmacIssuer(auth.ForClients)
	for name, c := range map[string]struct {
		callers []auth.Caller
		issuers []auth.Issuer
		want    []string
	}{
		"one issuer":          {[]auth.Caller{{Name: "a"}, {Name: "b", Issuer: "one"}}, []auth.Issuer{one, clients}, nil},
		"which of two":        {[]auth.Caller{{Name: "a"}, {Name: "b", Issuer: "two"}, {Name: "c", Certificate: "c.example"}}, []auth.Issuer{one, two}, []string{"[0].issuer: is required, since several issuers are for callers: one, two"}},
		"unknown issuer":      {[]auth.Caller{{Name: "a", Issuer: "x"}}, []auth.Issuer{one}, []string{`[0].issuer: there is no issuer "x" for callers`}},
		"issuer of clients":   {[]auth.Caller{{Name: "a", Issuer: "main"}}, []auth.Issuer{one, clients}, []string{`[0].issuer: there is no issuer "main" for callers`}},
		"both":                {[]auth.Caller{{Name: "a", Issuer: "one", Certificate: "a.example"}}, []auth.Issuer{one}, []string{"[0].certificate: is given, and issuer too"}},
		"one certificate":     {[]auth.Caller{{Name: "a", Certificate: "a.example"}, {Name: "b", Certificate: "A.example"}}, nil, []string{`[1].certificate: is also that of "a"`}},
		"no certificate name": {[]auth.Caller{{Name: "a", Certificate: "a b"}, {Name: "b", Certificate: "/tmp"}, {Name: "c", Certificate: "spiffe://example.org/c"}}, nil, []string{"[0].certificate: ", "[1].certificate: "}},
		"control, subscribe":  {[]auth.Caller{{Name: "a", Control: []string{"DisconnectUser", "Disconnect"}, Subscribe: []string{"bare"}}}, nil, []string{"[0].subscribe[0]: ", `[0].control[1]: "Disconnect" is not one of DisconnectUser, DisconnectConnection, SubscribeUser`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantLines(t, auth.CallerProblems(c.callers, c.issuers...), c.want)
		})
	}
}
