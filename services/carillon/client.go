package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"

	carillon "github.com/carillon-rt/carillon/clients/go"
	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/config"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// clientFlags are those of the commands that talk to a server as somebody.
type clientFlags struct {
	Token string `env:"CARILLON_TOKEN" help:"Token to show; default: one signed with the keys that dev keeps in the data directory."`
	CA    string `name:"ca" help:"Authorities in PEM that sign the server's certificate; default: the system's." placeholder:"FILE"`

	config.Flags
}

func newClientFlags() clientFlags { return clientFlags{Flags: config.NewFlags(config.NoRole)} }

// callTimeout bounds one call of a command.
const callTimeout = 15 * time.Second

// tokenFor returns the token of the flags, or makes one.
func (f *clientFlags) tokenFor(env environment, kind auth.Kind, subject string) (string, error) {
	if f.Token != "" {
		return f.Token, nil
	}
	loaded, err := config.Load(&f.Flags, config.NoRole, env.getenv)
	if err != nil {
		return "", err
	}
	issuer, err := signingIssuer(loaded, kind, "")
	if err != nil {
		return "", fmt.Errorf("no --token, and none can be made: %w", err)
	}
	return auth.Sign(issuer, config.Secrets(env.getenv), subject, devTokenTTL, nil)
}

// publish publishes a message as a service.
func (f *clientFlags) publish(ctx context.Context, env environment, server, service string, message *publishv1.PublishRequest) (*publishv1.PublishResponse, error) {
	token, err := f.tokenFor(env, auth.ForCallers, service)
	if err != nil {
		return nil, err
	}
	conn, err := f.dial(server)
	if err != nil {
		return nil, err
	}
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	receipt, err := publishv1.NewPublishServiceClient(conn).Publish(ctx, message)
	if err != nil {
		return nil, errors.Join(explain(server, err), conn.Close())
	}
	return receipt, conn.Close()
}

// explain words an error of a gRPC call for a person.
func explain(server string, err error) error {
	if err == nil {
		return nil
	}
	refusal := fault.FromGRPC(err, "")
	if refusal.Reason == "" {
		return fmt.Errorf("%s does not answer: %w", server, err)
	}
	return fmt.Errorf("%s (%s): %s", refusal.CodeName(), refusal.Reason, refusal.Message)
}

type sendCommand struct {
	Channel   string `arg:"" help:"Channel, for example chat.lobby."`
	JSON      string `arg:"" name:"json" help:"Message, a JSON text."`
	MessageID string `help:"Makes a retry safe."`
	Service   string `default:"dev" help:"Service to publish as, where no token is given (${default})."`
	Server    string `default:"127.0.0.1:9090" help:"Address of the Publish API (${default}); https://HOST:PORT over TLS."`

	clientFlags
}

func newSendCommand() sendCommand { return sendCommand{clientFlags: newClientFlags()} }

// Run publishes and prints where the message was stored.
func (s *sendCommand) Run(env environment) error {
	if err := s.checkCA(s.Server); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(env.ctx, callTimeout)
	defer cancel()
	receipt, err := s.publish(ctx, env, s.Server, s.Service, &publishv1.PublishRequest{
		Target: &publishv1.PublishRequest_Channel{Channel: s.Channel}, Payload: &publishv1.PublishRequest_Json{Json: s.JSON},
		MessageId: s.MessageID,
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(env.stdout, "{\"epoch\":%q,\"offset\":%d,\"duplicate\":%t}\n", receipt.GetEpoch(), receipt.GetOffset(), receipt.GetDuplicate())
	return err
}

func since(t *timestamppb.Timestamp) string { return t.AsTime().Format(time.RFC3339) }

type tailCommand struct {
	Channel string `arg:"" help:"Channel, for example chat.lobby."`
	User    string `default:"tail" help:"User to follow as, where no token is given (${default})."`
	Server  string `default:"ws://127.0.0.1:8080/v1/ws" help:"URL of the edge (${default}); wss:// over TLS."`

	clientFlags
}

func newTailCommand() tailCommand { return tailCommand{clientFlags: newClientFlags()} }

// Run prints a line of JSON for each message and for what is missing, until a signal.
// It connects again when a connection ends; not if the first cannot be made.
func (t *tailCommand) Run(env environment) error {
	if err := t.checkCA(t.Server); err != nil {
		return err
	}
	if _, err := t.tokenFor(env, auth.ForClients, t.User); err != nil {
		return err
	}
	client, err := t.httpClient()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(env.ctx)
	defer cancel(nil)
	f := follower{tail: t, env: env, end: cancel}
	err = carillon.Follow(ctx, carillon.SessionOptions{
		URLs: []string{t.Server}, Name: "carillon tail", Channels: []string{t.Channel}, HTTPClient: client,
		Token: func(context.Context) (string, error) { return t.tokenFor(env, auth.ForClients, t.User) },
	}, f.handle)
	switch cause := context.Cause(ctx); {
	case env.ctx.Err() != nil:
		return nil
	case cause != nil:
		return cause
	default:
		return err
	}
}

// follower prints what a session tells.
type follower struct {
	tail *tailCommand
	env  environment
	end  context.CancelCauseFunc
	user string // that of the connection; empty before the first
}

func (f *follower) handle(event carillon.Event) {
	switch event := event.(type) {
	case carillon.Connected:
		f.user = event.UserID
	case carillon.Disconnected:
		if f.user == "" {
			f.end(event.Err)
		} else if !event.Final {
			fmt.Fprintf(f.env.stderr, "disconnected: %v; trying again in %v\n", event.Err, event.Next.Round(time.Millisecond))
		}
	case carillon.Refused:
		switch {
		case event.Channel != f.tail.Channel:
		case event.Retry == 0:
			f.end(event.Err)
		default:
			fmt.Fprintf(f.env.stderr, "%v; trying again in %v\n", event.Err, event.Retry.Round(time.Millisecond))
		}
	case carillon.Subscribed:
		if event.Channel == f.tail.Channel {
			fmt.Fprintf(f.env.stderr, "following %s as %s\n", event.Channel, f.user)
		}
	case carillon.Reset:
		if event.Channel == f.tail.Channel {
			f.print(map[string]any{"reset": map[string]any{"since": event.Since.Offset, "offset": event.Position.Offset, "epoch": event.Position.Epoch}})
		}
	case carillon.Gap:
		if event.Channel == f.tail.Channel {
			f.print(map[string]any{"gap": map[string]any{
				"from": event.From, "to": event.To, "reason": strings.TrimPrefix(event.Reason.String(), "ERROR_REASON_"),
			}})
		}
	case carillon.Message:
		if event.GetChannel() == f.tail.Channel {
			f.print(messageLine(event.MessagePush))
		}
	}
}

func (f *follower) print(line map[string]any) {
	text, err := json.Marshal(line)
	if err == nil {
		_, err = fmt.Fprintf(f.env.stdout, "%s\n", text)
	}
	if err != nil { // nobody reads any more
		f.end(err)
	}
}

func messageLine(m *clientv1.MessagePush) map[string]any {
	line := map[string]any{"time": since(m.GetTime()), "publisher": m.GetPublisher()}
	if m.GetOffset() > 0 {
		line["offset"] = m.GetOffset()
	}
	if m.GetContentType() != "" {
		line["contentType"], line["dataBase64"] = m.GetContentType(), m.GetData()
	} else {
		line["data"] = json.RawMessage(m.GetJson())
	}
	return line
}
