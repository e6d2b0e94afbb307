package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/grpc/metadata"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/lifecycle"
)

type whoCommand struct {
	Channel string   `arg:"" optional:"" help:"Channel, for example chat.lobby."`
	User    string   `placeholder:"NAME" help:"Tell of this user in place of a channel: online or not, connections, last seen."`
	Watch   bool     `help:"Go on with a line for each who joins (+) and leaves (-)."`
	JSON    bool     `name:"json" help:"Print lines of JSON."`
	Service string   `default:"dev" help:"Service to ask as, where no token is given (${default})."`
	Server  []string `default:"127.0.0.1:9091" help:"Addresses of the presence service (${default}); https://HOST:PORT over TLS. Several are replicas that stand in for each other."`

	clientFlags
}

func newWhoCommand() whoCommand { return whoCommand{clientFlags: newClientFlags()} }

// Run prints a line for each member: user, connections, since when, info.
func (w *whoCommand) Run(env environment) error {
	switch {
	case (w.Channel == "") == (w.User == ""):
		return usageError{errors.New("who: give a channel, or --user")}
	case w.Watch && w.User != "":
		return usageError{errors.New("--watch: goes with a channel")}
	}
	if err := w.checkCA(w.Server...); err != nil {
		return err
	}
	if _, err := w.tokenFor(env, auth.ForCallers, w.Service); err != nil {
		return err
	}
	conn, err := w.dial(w.Server...)
	if err != nil {
		return fmt.Errorf("--server: %w", err)
	}
	client := presencev1.NewPresenceServiceClient(conn)
	switch {
	case w.User != "":
		err = w.user(env, client)
	case w.Watch:
		err = newWatching(w, env, client).run()
	default:
		err = w.list(env, client)
	}
	return errors.Join(err, conn.Close())
}

// as makes a context show the caller's token, a new one where it is made here.
func (w *whoCommand) as(ctx context.Context, env environment) (context.Context, error) {
	token, err := w.tokenFor(env, auth.ForCallers, w.Service)
	if err != nil {
		return nil, err
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token), nil
}

// ask makes a call, again as long as the presence service has only just started.
func (w *whoCommand) ask(env environment, call func(context.Context) error) error {
	ctx, err := w.as(env.ctx, env)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for {
		err := call(ctx)
		refusal := fault.FromGRPC(err, "")
		if refusal == nil || refusal.Reason != fault.PresenceUnavailable || !lifecycle.Pause(ctx, max(refusal.RetryAfter, minWatchPause)) {
			return explain(strings.Join(w.Server, ","), err)
		}
	}
}

func (w *whoCommand) list(env environment, client presencev1.PresenceServiceClient) error {
	request := &presencev1.ListMembersRequest{Channel: w.Channel, PageSize: 1000}
	for {
		var page *presencev1.ListMembersResponse
		err := w.ask(env, func(ctx context.Context) (err error) {
			page, err = client.ListMembers(ctx, request)
			return err
		})
		if err != nil {
			return err
		}
		for _, m := range page.GetMembers() {
			if err := w.line(env, memberLine(m), m.GetUserId(), number(m.GetConnections()), since(m.GetSince()), m.GetInfo()); err != nil {
				return err
			}
		}
		next := page.GetNextPageToken()
		if next == "" {
			return nil
		}
		request.PageToken = next
	}
}

// user prints whether a user is online, and a line for each connection.
func (w *whoCommand) user(env environment, client presencev1.PresenceServiceClient) error {
	var user *presencev1.GetUserResponse
	err := w.ask(env, func(ctx context.Context) (err error) {
		user, err = client.GetUser(ctx, &presencev1.GetUserRequest{UserId: w.User})
		return err
	})
	if err != nil {
		return err
	}
	state, detail := "offline", "not seen lately"
	switch {
	case user.GetOnline():
		state, detail = "online", number(user.GetTotal())
	case user.GetLastSeen() != nil:
		detail = "last seen " + since(user.GetLastSeen())
	}
	if err := w.line(env, userLine(user), user.GetUserId(), state, detail); err != nil || w.JSON {
		return err
	}
	for _, c := range user.GetConnections() {
		if err := w.line(env, nil, c.GetConnectionId(), c.GetEdgeId(), since(c.GetSince()), c.GetInfo()); err != nil {
			return err
		}
	}
	return nil
}

// line prints a line: of JSON, or of columns, the last of which may be empty.
func (w *whoCommand) line(env environment, object map[string]any, columns ...string) error {
	text := strings.TrimRight(strings.Join(columns, "\t"), "\t")
	if w.JSON {
		encoded, err := json.Marshal(object)
		if err != nil {
			return err
		}
		text = string(encoded)
	}
	_, err := fmt.Fprintln(env.stdout, text)
	return err
}

func number(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

func memberLine(m *presencev1.Member) map[string]any {
	return withInfo(map[string]any{"userId": m.GetUserId(), "connections": m.GetConnections(), "since": since(m.GetSince())}, m.GetInfo())
}

func userLine(user *presencev1.GetUserResponse) map[string]any {
	connections := []map[string]any{}
	for _, c := range user.GetConnections() {
		connections = append(connections, withInfo(map[string]any{"connectionId": c.GetConnectionId(), "edgeId": c.GetEdgeId(), "since": since(c.GetSince())}, c.GetInfo()))
	}
	line := map[string]any{"userId": user.GetUserId(), "online": user.GetOnline(), "total": user.GetTotal(), "connections": connections}
	if user.GetLastSeen() != nil {
		line["lastSeen"] = since(user.GetLastSeen())
	}
	return line
}

func withInfo(line map[string]any, info string) map[string]any {
	if json.Valid([]byte(info)) {
		line["info"] = json.RawMessage(info)
	}
	return line
}
