package edge

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/control"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

func TestRevocations(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	r := newRevocations(slog.New(slog.DiscardHandler))
	until := func(ahead time.Duration) control.Command {
		return control.Command{User: "a", ExpiresAt: now.Add(ahead)}
	}
	all, one := until(time.Hour), until(time.Minute)
	all.IssuedBefore, one.TokenID = now.Add(-time.Minute), "x"
	r.add(all, now)
	r.add(one, now)
	earlier := all // neither takes back what was revoked, nor for how long
	earlier.IssuedBefore, earlier.ExpiresAt = now.Add(-time.Hour), now.Add(time.Second)
	r.add(earlier, now)
	one.ExpiresAt = now.Add(time.Second)
	r.add(one, now)
	for _, tt := range []struct {
		user, id string
		issued   time.Time
		at       time.Duration
		want     bool
	}{
		{"a", "", now.Add(-time.Minute), 0, true},
		{"a", "", now.Add(-time.Minute), time.Hour - 1, true},
		{"a", "", now.Add(-time.Minute), time.Hour, false},
		{"a", "", now.Add(-59 * time.Second), 0, false},
		{"a", "", time.Time{}, 0, true},
		{"a", "x", now, time.Minute - 1, true},
		{"a", "x", now, time.Minute, false},
		{"a", "y", now, 0, false},
		{"b", "x", now, 0, false},
		{"b", "", time.Time{}, 0, false},
	} {
		if got := r.holds(auth.Identity{Subject: tt.user, TokenID: tt.id, IssuedAt: tt.issued}, now.Add(tt.at)); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
}

// What has ended is not kept, and there is a bound to what has not.
func TestRevocationsAreBounded(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	now := time.Unix(1_000_000, 0)
	r := newRevocations(slog.New(slog.NewTextHandler(&log, nil)))
	r.most = 4000
	name := func(i int) channel.User { return channel.User(fmt.Sprint(i)) }
	for i := range 20_000 {
		c := control.Command{User: name(i), IssuedBefore: now, ExpiresAt: now.Add(time.Minute)}
		if i%2 == 0 {
			c.TokenID = "x"
		}
		r.add(c, now)
		now = now.Add(100 * time.Millisecond) // some 600 are in force
	}
	if kept := len(r.users) + len(r.tokens); kept > 2000 {
		t.Errorf("%d are kept", kept)
	}
	for i := range r.most + 10 {
		r.add(control.Command{User: name(i), IssuedBefore: now, ExpiresAt: now.Add(time.Hour)}, now)
	}
	if kept := len(r.users) + len(r.tokens); kept > r.most {
		t.Errorf("%d are kept", kept)
	}
	if strings.Count(log.String(), "too many revocations") != 1 {
		t.Errorf("logged %q", log.String())
	}
	later := control.Command{User: name(0), IssuedBefore: now.Add(time.Minute), ExpiresAt: now.Add(time.Hour)}
	r.add(later, now) // of one that is known there is room
	if !r.holds(auth.Identity{Subject: "0", IssuedAt: later.IssuedBefore}, now) {
		t.Error("a later revocation of the same user is not known")
	}
}

// FuzzMessageType compares with a reader that goes through the members one by one.
func FuzzMessageType(f *testing.F) {
	for _, text := range []string{
		`{"type":"a"}`, `{"type":"a","type":"b"}`, `{"t\u0079pe":"\ud83d\ude00"}`, `{"Type":"a"}`, `{"a":{"type":"b"},"type":null}`,
		`["type"]`, `"type"`, `{}`, `null`, ` {"type" : "a"} `, `{"type":"\ud800"}`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		payload, err := message.JSON("data", []byte(text))
		if err != nil {
			return
		}
		got, err := messageType(payload)
		want := slowType(payload.Data)
		if len(want) > maxTypeBytes {
			if fault.From(err).Reason != fault.FieldInvalid {
				t.Errorf("%q: %q, %v", text, got, err)
			}
			return
		}
		if err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	})
}

func slowType(data []byte) string {
	d := json.NewDecoder(bytes.NewReader(data))
	if first, _ := d.Token(); first != json.Delim('{') {
		return ""
	}
	found := ""
	for d.More() {
		name, _ := d.Token()
		var value any
		_ = d.Decode(&value)
		if name == "type" {
			found, _ = value.(string)
		}
	}
	return found
}

// FuzzHandshakeToken: whatever a page makes a browser send, the cookie is good with an
// Origin that is allowed only.
func FuzzHandshakeToken(f *testing.F) {
	f.Add("https://app.example", "session=cookie", "Bearer other", "access_token=third", "carillon.bearer.fourth, x")
	f.Add("https://evil.example", `session="cookie"; session=`, "bearer", "a;access_token=%63ookie&access_token=", ",,carillon.bearer.")
	f.Add("", "session=cookie", "", "", "")
	e := &Edge{options: Options{Credentials: Credentials{InQuery: true, Cookie: "session", AllowedOrigins: []string{"https://app.example"}}}}
	f.Fuzz(func(t *testing.T, origin, cookies, authorization, query, protocols string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://edge.example/v1/ws", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.URL.RawQuery = query
		for name, value := range map[string]string{"Origin": origin, "Cookie": cookies, "Authorization": authorization, "Sec-Websocket-Protocol": protocols} {
			if value != "" {
				r.Header.Set(name, value)
			}
		}
		ambient := cookieTokens(r, "session")
		offered := subprotocols(r)
		token, refusal := e.handshakeToken(r, offered)
		explicit := strings.HasSuffix(authorization, token) || slices.Contains(offered, bearerSubprotocol+token) || slices.Contains(r.URL.Query()[tokenParameter], token)
		switch {
		case refusal != nil && refusal.Code().String() != "Unauthenticated" && refusal.Reason != fault.OriginForbidden:
			t.Fatalf("refused with %v", refusal)
		case len(ambient) > 0 && origin != "" && origin != "https://app.example" && (refusal == nil || refusal.Reason != fault.OriginForbidden):
			t.Fatalf("a page of %q got %q, %v", origin, token, refusal)
		case refusal == nil && token != "" && origin != "https://app.example" && !explicit && !strings.Contains(authorization, token):
			t.Fatalf("%q came from nowhere but %q", token, cookies)
		}
	})
}
