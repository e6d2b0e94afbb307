package e2e_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	authzv1 "github.com/carillon-rt/carillon/gen/carillon/authz/v1"
	"github.com/carillon-rt/carillon/services/internal/auth"
)

// The secret that edges and presence share is changed while they run, each of them at
// another time, in the steps of docs/security.md: nobody is refused, and in the end the old
// one is worth nothing.
func TestRolesSecretRotates(t *testing.T) {
	t.Parallel()
	oldSecret, newSecret := strings.Repeat("o", 32), strings.Repeat("n", 32)
	address := reserve(t)
	startNATS(t, t.TempDir(), address)
	base := newCluster(t, address)
	dir := filepath.Dir(base.file)
	oldFile, newFile := filepath.Join(dir, "old"), filepath.Join(dir, "new")
	write(t, oldFile, oldSecret)
	write(t, newFile, newSecret)
	text, err := os.ReadFile(base.file)
	if err != nil {
		t.Fatal(err)
	}
	with := func(secrets string) string {
		return strings.Replace(string(text), "roles_secret: {env: E2E_ROLES_SECRET}", secrets, 1)
	}
	of := map[string]*cluster{}
	for _, role := range []string{"presence", "edge"} {
		c := &cluster{file: filepath.Join(dir, role+".yaml"), environ: base.environ}
		write(t, c.file, with(fmt.Sprintf("roles_secret: {file: %q}", oldFile)))
		of[role] = c
	}
	presence := of["presence"].start(t, "presence")
	edge := of["edge"].start(t, "edge", presences(presence.address(t, "presence")))
	s := base.system(t, presence.ready(t), edge.ready(t))
	answered := s.asking(t, s.edges[0])
	for _, secrets := range []string{
		fmt.Sprintf("roles_secret: {file: %q}\n  previous_roles_secret: {file: %q}", oldFile, newFile), // the new one is let through
		fmt.Sprintf("roles_secret: {file: %q}\n  previous_roles_secret: {file: %q}", newFile, oldFile), // and signs
		fmt.Sprintf("roles_secret: {file: %q}", newFile),
	} {
		for role, p := range map[string]*process{"presence": presence, "edge": edge} { // in any order
			logged := p.logged()
			write(t, of[role].file+".next", with(secrets))
			if err := os.Rename(of[role].file+".next", of[role].file); err != nil {
				t.Fatal(err)
			}
			p.lineAfter(t, &p.stderr, logged, "the configuration has changed", "roles' secret")
			answered(t, 10)
		}
	}
	for secret, want := range map[string]codes.Code{oldSecret: codes.Unauthenticated, newSecret: codes.OK} {
		if code := status.Code(askAs(t, s.presences[0], secret)); code != want {
			t.Errorf("with the secret %.1s…: %v, want %v", secret, code, want)
		}
	}
}

// asking has a client ask all the time for what nobody remembers; the function that is
// returned waits until more has been answered.
func (s *system) asking(t *testing.T, edge string) (answered func(t *testing.T, more int64)) {
	t.Helper()
	var count atomic.Int64
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	c := s.connect(t, edge, "nina")
	running.Go(func() {
		pace := time.NewTicker(20 * time.Millisecond)
		defer pace.Stop()
		for {
			select {
			case <-pace.C:
			case <-ctx.Done():
				return
			}
			channel := fmt.Sprint("chat.rotation-", count.Load())
			if _, err := c.Subscribe(ctx, channel); err != nil && ctx.Err() == nil {
				t.Errorf("%s: %v", channel, err)
			}
			_ = c.Unsubscribe(ctx, channel) // or it was not made
			count.Add(1)
		}
	})
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	return func(t *testing.T, more int64) {
		t.Helper()
		want := count.Load() + more
		eventually(t, "answers", func() error {
			if now := count.Load(); now < want {
				return fmt.Errorf("%d, want %d", now, want)
			}
			return nil
		})
	}
}

// askAs asks a presence replica as a role that has a secret.
func askAs(t *testing.T, replica, secret string) error {
	t.Helper()
	key, err := auth.NewRoleKey([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(replica, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithPerRPCCredentials(key.Credentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err = authzv1.NewAuthorizationServiceClient(conn).CheckPermissions(ctx, &authzv1.CheckPermissionsRequest{
		UserId: "ann", Checks: []*authzv1.PermissionCheck{{Action: authzv1.Action_ACTION_SUBSCRIBE, Channel: "chat.a"}},
	})
	return err
}
