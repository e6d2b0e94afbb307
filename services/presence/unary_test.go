package presence

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	authzv1 "github.com/carillon-rt/carillon/gen/carillon/authz/v1"
	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

func TestListMembersInPages(t *testing.T) {
	t.Parallel()
	s := started(t)
	var all []*presencev1.Attendance
	for i := range 250 {
		all = append(all, at(lobby, fmt.Sprintf("u%03d", i), 1))
	}
	s.report(t).ok(hello("e1")).ok(snapshot(true, all...))
	conn := s.as(t, "callers/billing")
	req := &presencev1.ListMembersRequest{Channel: lobby}
	var got []string
	for _, want := range []int{100, 100, 50} {
		res, err := list(t, conn, req)
		if err != nil || len(res.GetMembers()) != want || res.GetTotal() != 250 {
			t.Fatalf("a page of %d of %d (%v), want %d", len(res.GetMembers()), res.GetTotal(), err, want)
		}
		for _, m := range res.GetMembers() {
			got = append(got, m.GetUserId())
		}
		req.PageToken = res.GetNextPageToken()
	}
	if req.PageToken != "" || len(got) != 250 || got[0] != "u000" || got[249] != "u249" {
		t.Fatalf("token %q after %v", req.PageToken, got)
	}
	if res, err := list(t, conn, &presencev1.ListMembersRequest{Channel: "chat.empty", PageSize: 1000}); err != nil || res.GetTotal() != 0 || len(res.GetMembers()) != 0 || res.GetNextPageToken() != "" {
		t.Fatalf("an empty channel: %v, %v", res, err)
	}
}

func TestListMembersRefusals(t *testing.T) {
	t.Parallel()
	s := started(t)
	for name, c := range map[string]struct {
		as      bearer
		req     *presencev1.ListMembersRequest
		code    codes.Code
		reason  fault.Reason
		field   string
		message string
	}{
		"illegal channel":    {"callers/billing", &presencev1.ListMembersRequest{Channel: "chat.*"}, codes.InvalidArgument, fault.ChannelInvalid, "channel", ""},
		"no channel":         {"callers/billing", &presencev1.ListMembersRequest{}, codes.InvalidArgument, fault.FieldRequired, "channel", ""},
		"unknown namespace":  {"callers/billing", &presencev1.ListMembersRequest{Channel: "nope.x"}, codes.NotFound, fault.NamespaceUnknown, "channel", `there is no namespace "nope"`},
		"without presence":   {"callers/billing", &presencev1.ListMembersRequest{Channel: "news.x"}, codes.FailedPrecondition, fault.PresenceDisabled, "channel", `the namespace "news" has no presence`},
		"not covered":        {"callers/billing", &presencev1.ListMembersRequest{Channel: "chat.a.b"}, codes.PermissionDenied, fault.CallerDenied, "channel", ""},
		"covers nothing":     {"callers/other", &presencev1.ListMembersRequest{Channel: lobby}, codes.PermissionDenied, fault.CallerDenied, "channel", ""},
		"unknown caller":     {"callers/ghost", &presencev1.ListMembersRequest{Channel: lobby}, codes.PermissionDenied, fault.CallerUnknown, "", ""},
		"a user":             {"clients/ann", &presencev1.ListMembersRequest{Channel: lobby}, codes.Unauthenticated, fault.TokenAudienceInvalid, "", ""},
		"page too large":     {"roles/edge", &presencev1.ListMembersRequest{Channel: lobby, PageSize: 1001}, codes.InvalidArgument, fault.FieldInvalid, "pageSize", ""},
		"token not base64":   {"roles/edge", &presencev1.ListMembersRequest{Channel: lobby, PageToken: "?"}, codes.InvalidArgument, fault.FieldInvalid, "pageToken", "pageToken is not the nextPageToken of a page before"},
		"token of no user":   {"roles/edge", &presencev1.ListMembersRequest{Channel: lobby, PageToken: "AAAA"}, codes.InvalidArgument, fault.FieldInvalid, "pageToken", ""},
		"token too long":     {"roles/edge", &presencev1.ListMembersRequest{Channel: lobby, PageToken: strings.Repeat("A", 400)}, codes.InvalidArgument, fault.FieldInvalid, "pageToken", ""},
		"token not the only": {"roles/edge", &presencev1.ListMembersRequest{Channel: lobby, PageToken: "YWJ"}, codes.InvalidArgument, fault.FieldInvalid, "pageToken", ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := list(t, s.as(t, c.as), c.req)
			wantFault(t, err, c.code, c.reason, c.field, c.message)
		})
	}
}

func TestCheckPermissionsAnswersInOrder(t *testing.T) {
	t.Parallel()
	s := started(t)
	claims, err := structpb.NewStruct(map[string]any{"rooms": []any{"lobby"}})
	if err != nil {
		t.Fatal(err)
	}
	res, err := check(t, s.asRole(t), &authzv1.CheckPermissionsRequest{UserId: "ann", Claims: claims, Checks: []*authzv1.PermissionCheck{
		{Action: authzv1.Action_ACTION_SUBSCRIBE, Channel: lobby},
		{Action: authzv1.Action_ACTION_PUBLISH, Channel: lobby},
		{Action: authzv1.Action_ACTION_PUBLISH, Channel: "chat.attic"},
		{Action: authzv1.Action_ACTION_PRESENCE, Channel: lobby},
		{Action: authzv1.Action_ACTION_SUBSCRIBE, Channel: "nope.x"},
		{Action: authzv1.Action_ACTION_SUBSCRIBE, Channel: "news.x"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`true chat[0].subscribe ""`,
		`true chat[0].publish ""`,
		`false chat[0].publish "the rule chat[0].publish does not allow it"`,
		`true chat[0].subscribe ""`,
		`false  "there is no namespace \"nope\""`,
		`false  "no rule of the namespace \"news\" matches the channel"`,
	}
	for i, d := range res.GetDecisions() {
		if got := fmt.Sprintf("%t %s %q", d.GetAllowed(), d.GetRule(), d.GetMessage()); got != want[i] {
			t.Errorf("decision %d: %s, want %s", i, got, want[i])
		}
		if d.GetCacheFor().AsDuration() != time.Minute {
			t.Errorf("decision %d may be cached for %v", i, d.GetCacheFor().AsDuration())
		}
	}
	res, err = check(t, s.asRole(t), &authzv1.CheckPermissionsRequest{UserId: "ann", Checks: []*authzv1.PermissionCheck{{Action: authzv1.Action_ACTION_PUBLISH, Channel: lobby}}})
	if err != nil || res.GetDecisions()[0].GetMessage() != `the rule chat[0].publish wants "rooms", which the token's claims do not have` {
		t.Errorf("without claims: %v, %v", res, err)
	}
}

func TestCheckPermissionsRefusals(t *testing.T) {
	t.Parallel()
	s := started(t)
	ok := &authzv1.PermissionCheck{Action: authzv1.Action_ACTION_SUBSCRIBE, Channel: lobby}
	many := make([]*authzv1.PermissionCheck, 257)
	for i := range many {
		many[i] = ok
	}
	for name, c := range map[string]struct {
		req    *authzv1.CheckPermissionsRequest
		reason fault.Reason
		field  string
	}{
		"no user":         {&authzv1.CheckPermissionsRequest{Checks: many[:1]}, fault.FieldRequired, "userId"},
		"bad user":        {&authzv1.CheckPermissionsRequest{UserId: "\n", Checks: many[:1]}, fault.FieldInvalid, "userId"},
		"no checks":       {&authzv1.CheckPermissionsRequest{UserId: "ann"}, fault.FieldRequired, "checks"},
		"too many checks": {&authzv1.CheckPermissionsRequest{UserId: "ann", Checks: many}, fault.FieldInvalid, "checks"},
		"bad channel":     {&authzv1.CheckPermissionsRequest{UserId: "ann", Checks: []*authzv1.PermissionCheck{ok, {Action: 1, Channel: "chat.a b"}}}, fault.ChannelInvalid, "checks[1].channel"},
		"no action":       {&authzv1.CheckPermissionsRequest{UserId: "ann", Checks: []*authzv1.PermissionCheck{{Channel: lobby}}}, fault.FieldRequired, "checks[0].action"},
		"unknown action":  {&authzv1.CheckPermissionsRequest{UserId: "ann", Checks: []*authzv1.PermissionCheck{{Channel: lobby, Action: 9}}}, fault.FieldInvalid, "checks[0].action"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := check(t, s.asRole(t), c.req)
			wantFault(t, err, codes.InvalidArgument, c.reason, c.field, "")
		})
	}
}

func TestNewTellsEveryProblemOfTheRules(t *testing.T) {
	t.Parallel()
	_, err := New(Options{Logger: slog.New(slog.DiscardHandler), Namespaces: namespace.NewSet([]namespace.Namespace{
		{Name: "b", Rules: []namespace.Rule{{Channel: "b.x", Subscribe: "1"}}},
		{Name: "a", Rules: []namespace.Rule{{Channel: "a.x", Subscribe: "2"}}},
	})})
	want := "namespaces[a].rules[0].subscribe: the result is int, not bool\nnamespaces[b].rules[0].subscribe: the result is int, not bool"
	if err == nil || err.Error() != want {
		t.Fatalf("got %v, want %s", err, want)
	}
}

func FuzzPageToken(f *testing.F) {
	f.Add(pageToken("ann"))
	f.Add("YWJ")
	f.Add("X00\n")
	f.Fuzz(func(t *testing.T, token string) {
		user, err := parsePageToken(token)
		if err == nil && pageToken(user) != token && token != "" {
			t.Fatalf("%q and %q both name %q", token, pageToken(user), user)
		}
	})
}

func BenchmarkListMembersOf10000(b *testing.B) {
	s := started(b)
	e := s.report(b).ok(hello("e1"))
	for part := range 10 {
		all := make([]*presencev1.Attendance, 1000)
		for i := range all {
			all[i] = at(lobby, fmt.Sprintf("user-%05d", part*1000+i), 1)
		}
		e.ok(snapshot(part == 9, all...))
	}
	conn := s.asRole(b)
	req := &presencev1.ListMembersRequest{Channel: lobby, PageToken: pageToken("user-05000")}
	b.ReportAllocs()
	for b.Loop() {
		if res, err := list(b, conn, req); err != nil || len(res.GetMembers()) != 100 {
			b.Fatal(len(res.GetMembers()), err)
		}
	}
}
