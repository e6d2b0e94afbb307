//go:build linux

// Package peer is servers that do a part of what Carillon does, or next to nothing,
// each a process of its own: what a benchmark measures Carillon against.
package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// peers serve until ctx ends. What they are connected to then ends with the process.
var peers = map[string]func(ctx context.Context, log *slog.Logger) error{
	"floor":     floor,
	"grpc":      emptyHandlers,
	"websocket": websockets,
}

// Run runs a server until ctx ends. Where it listens it says on out, a line of JSON each.
func Run(ctx context.Context, name string, out io.Writer) error {
	serve, ok := peers[name]
	if !ok {
		return fmt.Errorf("%q is none of %s", name, strings.Join(slices.Sorted(maps.Keys(peers)), ", "))
	}
	return serve(ctx, slog.New(slog.NewJSONHandler(out, nil)))
}

// listen listens on a port that is free.
func listen(ctx context.Context, log *slog.Logger, on string) (net.Listener, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	say(log, on, listener.Addr())
	return listener, nil
}

func say(log *slog.Logger, on string, address net.Addr) {
	log.Info("listening", "on", on, "address", address.String())
}

// delivery brings messages to who hears a channel, in order.
type delivery func(channel string, messages [][]byte)

// serve serves backend services, and clients as told, until ctx ends.
func serve(ctx context.Context, log *slog.Logger, deliver delivery, clients func(context.Context) error) error {
	backends, err := listen(ctx, log, "backends")
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	context.AfterFunc(ctx, func() { _ = backends.Close() })
	group.Go(func() error { return ended(ctx, serveBackends(backends, deliver)) })
	group.Go(func() error { return ended(ctx, clients(ctx)) })
	return group.Wait()
}

// ended is the error of what ctx did not end.
func ended(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return errors.Join(errors.New("it stopped"), err)
	}
	return nil
}
