package edge_test

import (
	"context"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	authzv1 "github.com/carillon-rt/carillon/gen/carillon/authz/v1"
	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/edge/authorization"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// law is an authorization service whose rules tests change. Its answers are not cached.
type law struct {
	authzv1.UnimplementedAuthorizationServiceServer

	mu    sync.Mutex
	rule  func(claims map[string]any, check *authzv1.PermissionCheck) *authzv1.Decision
	away  bool
	hold  chan struct{}              // answers wait for it, once the rule has decided
	held  chan struct{}              // gets one for each answer that waits
	asked []*authzv1.PermissionCheck // everything
}

func (l *law) CheckPermissions(ctx context.Context, req *authzv1.CheckPermissionsRequest) (*authzv1.CheckPermissionsResponse, error) {
	l.mu.Lock()
	if l.away {
		l.mu.Unlock()
		return nil, status.Error(codes.Unavailable, "away")
	}
	l.asked = append(l.asked, req.GetChecks()...)
	res := &authzv1.CheckPermissionsResponse{}
	for _, check := range req.GetChecks() {
		res.Decisions = append(res.Decisions, l.rule(req.GetClaims().AsMap(), check))
	}
	hold := l.hold
	l.mu.Unlock()
	if hold != nil {
		l.held <- struct{}{}
		select {
		case <-hold:
		case <-ctx.Done():
		}
	}
	return res, nil
}

// change changes the law under its lock.
func (l *law) change(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

// questions are what was asked since the last call.
func (l *law) questions() []*authzv1.PermissionCheck {
	l.mu.Lock()
	defer l.mu.Unlock()
	asked := l.asked
	l.asked = nil
	return asked
}

func allowed(yes bool) *authzv1.Decision {
	return &authzv1.Decision{Allowed: yes, Rule: "chat[0]", Message: "the rule chat[0] does not allow it"}
}

// inRooms allows what the claim rooms lists.
func inRooms(claims map[string]any, check *authzv1.PermissionCheck) *authzv1.Decision {
	rooms, _ := claims["rooms"].([]any)
	for _, room := range rooms {
		if room == check.GetChannel() {
			return allowed(true)
		}
	}
	return allowed(false)
}

// startLawful starts an edge that asks a law, which allows everything.
func startLawful(t testing.TB, change ...func(*edge.Options)) (*world, *law) {
	t.Helper()
	l := &law{
		held: make(chan struct{}, 1000),
		rule: func(map[string]any, *authzv1.PermissionCheck) *authzv1.Decision { return allowed(true) },
	}
	memory := rpc.NewMemory()
	server := grpc.NewServer()
	authzv1.RegisterAuthorizationServiceServer(server, l)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(memory) })
	conn, err := memory.Dial(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		serving.Wait()
	})
	w := start(t, func(o *edge.Options) {
		o.Authorizer = authorization.New(conn)
		for _, f := range change {
			f(o)
		}
	})
	return w, l
}

// tokenWith is alice's token for an hour with other claims; nil takes one away.
func tokenWith(t testing.TB, claims jwt.MapClaims) string {
	t.Helper()
	all := jwt.MapClaims{"sub": "alice", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix()}
	maps.Copy(all, claims)
	maps.DeleteFunc(all, func(_ string, value any) bool { return value == nil })
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, all).SignedString(secret)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// enter connects with a token and reads the frames of connecting.
func (w *world) enter(t testing.TB, token string) *client {
	t.Helper()
	c := w.dial(t, nil)
	c.say(`{"id":1,"connect":{"token":"` + token + `"}}`)
	c.hear("connected")
	c.hear("subscribed") // the inbox
	return c
}
