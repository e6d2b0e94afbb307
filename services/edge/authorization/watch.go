package authorization

import (
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	authzv1 "github.com/carillon-rt/carillon/gen/carillon/authz/v1"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// Backoff before another stream, full jitter; a stream that lasted for the greater
// makes the next wait the lesser.
const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 2 * time.Second
	// silentPause is how long a replica is left alone that does not tell. A proxy may have
	// said so for it (an HTTP 404 is UNIMPLEMENTED too), or it is about to be updated.
	silentPause = time.Minute
)

// Watch follows the rules of every replica of the service, each by a stream over a
// connection of its own, until ctx ends; conns are by address, for the log. When a
// replica tells other rules than before, or its first, everything that was remembered
// is forgotten and changed is called, which must be safe for concurrent use and not
// block. Of a replica without WatchPolicy answers end by expiring; it is asked for it
// again each minute.
func (c *Client) Watch(ctx context.Context, conns map[string]grpc.ClientConnInterface, logger *slog.Logger, changed func()) {
	var watching sync.WaitGroup
	for address, conn := range conns {
		w := watcher{
			service: authzv1.NewAuthorizationServiceClient(conn), logger: logger.With("address", address),
			tells: func(version string) { c.tells(address, version) },
			changed: func() {
				c.forget()
				changed()
			},
		}
		watching.Go(func() { w.run(ctx) })
	}
	watching.Wait()
	<-ctx.Done()
}

// Versions names the rules by which each replica that Watch follows decides, by its
// address: equal for equal rules; "" of one that does not tell now.
func (c *Client) Versions() map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.versions)
}

// tells notes what a replica tells.
func (c *Client) tells(address, version string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.versions == nil {
		c.versions = map[string]string{}
	}
	c.versions[address] = version
}

// watcher follows one replica.
type watcher struct {
	service authzv1.AuthorizationServiceClient
	logger  *slog.Logger
	tells   func(version string) // "": it does not, now
	changed func()
	told    bool   // whether a version was told yet
	version string // the last
	silent  bool   // there was no WatchPolicy the last time
}

// run opens one stream after the other.
func (w *watcher) run(ctx context.Context) {
	w.tells("")
	var outage rpc.Outage
	for {
		started := time.Now()
		err := w.follow(ctx)
		w.tells("")
		if ctx.Err() != nil {
			return
		}
		if time.Since(started) >= maxBackoff {
			outage.Over()
		}
		wait := minBackoff + rand.N(min(minBackoff<<min(outage.Failures(), 10), maxBackoff))
		level := outage.Failed(err)
		if status.Code(err) == codes.Unimplemented {
			w.noteSilence()
			wait = silentPause
		} else {
			w.noteEnd(err, level)
		}
		pause := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-pause.C:
		}
	}
}

// noteSilence logs once that a replica does not tell.
func (w *watcher) noteSilence() {
	if !w.silent {
		w.logger.Info("the authorization service does not tell when its rules change; answers are kept for as long as it says")
	}
	w.silent = true
}

// noteEnd logs that a stream has ended.
func (w *watcher) noteEnd(err error, level slog.Level) {
	w.silent = false
	w.logger.Log(context.Background(), level, "the authorization service is not watched: the stream ended", "error", err)
}

// follow reads one stream to its end.
func (w *watcher) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := w.service.WatchPolicy(ctx, &authzv1.WatchPolicyRequest{})
	if err != nil {
		return err
	}
	for {
		told, err := stream.Recv()
		if err != nil {
			return err
		}
		if version := told.GetVersion(); version != w.version || !w.told {
			w.logger.Info("rules", "version", version, "before", w.version)
			w.told, w.version = true, version
			w.changed()
		}
		w.tells(w.version)
	}
}
