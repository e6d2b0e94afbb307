package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	carillon "github.com/carillon-rt/carillon/clients/go"
	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/auth"
)

type probeCommand struct {
	Channel   string        `arg:"" help:"Channel, which the service may publish to and the user may read."`
	User      string        `default:"probe" help:"User to listen as, where no token is given (${default})."`
	Service   string        `default:"dev" help:"Service to publish as, where no token is given (${default})."`
	UserToken string        `env:"CARILLON_USER_TOKEN" help:"Token to listen with; default: one signed as by carillon token."`
	Edge      string        `default:"ws://127.0.0.1:8080/v1/ws" help:"URL of the edge (${default}); wss:// over TLS."`
	Publish   string        `default:"127.0.0.1:9090" help:"Address of the Publish API (${default}); https://HOST:PORT over TLS."`
	Timeout   time.Duration `default:"15s" help:"Time that all of it may take (${default})."`

	clientFlags
}

func newProbeCommand() probeCommand { return probeCommand{clientFlags: newClientFlags()} }

// Run subscribes as the user, publishes as the service and waits for the message. It
// prints a line for each of these, with the time that it took.
func (p *probeCommand) Run(env environment) error {
	if err := p.checkCA(p.Edge, p.Publish); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(env.ctx, p.Timeout)
	defer cancel()
	began := time.Now()
	listener, err := p.listen(ctx, env)
	if err != nil {
		return fmt.Errorf("listening at %s: %w", p.Edge, err)
	}
	defer func() { _ = listener.Close() }() // what it was for has been said by then
	if err := tookFor(env, "subscribed", began); err != nil {
		return err
	}

	began = time.Now()
	id := "probe-" + rand.Text()
	receipt, err := p.publish(ctx, env, p.Publish, p.Service, &publishv1.PublishRequest{
		Target: &publishv1.PublishRequest_Channel{Channel: p.Channel}, MessageId: id,
		Payload: &publishv1.PublishRequest_Json{Json: `{"probe":true}`},
	})
	if err != nil {
		return fmt.Errorf("publishing at %s: %w", p.Publish, err)
	}
	if err := tookFor(env, fmt.Sprintf("stored at offset %d", receipt.GetOffset()), began); err != nil {
		return err
	}
	if err := awaitMessage(ctx, listener, id); err != nil {
		return fmt.Errorf("waiting at %s for what was stored: %w", p.Edge, err)
	}
	return tookFor(env, "received", began)
}

func tookFor(env environment, what string, began time.Time) error {
	_, err := fmt.Fprintf(env.stdout, "%s after %v\n", what, time.Since(began).Round(10*time.Microsecond))
	return err
}

// listen connects to the edge and subscribes.
func (p *probeCommand) listen(ctx context.Context, env environment) (*carillon.Client, error) {
	as := p.clientFlags
	as.Token = p.UserToken
	token, err := as.tokenFor(env, auth.ForClients, p.User)
	if err != nil {
		return nil, err
	}
	client, err := p.httpClient()
	if err != nil {
		return nil, err
	}
	listener, err := carillon.Dial(ctx, carillon.Options{URL: p.Edge, Token: token, Name: "carillon probe", HTTPClient: client})
	if err != nil {
		return nil, err
	}
	_, err = listener.Subscribe(ctx, p.Channel)
	refusal, refused := errors.AsType[*carillon.Error](err)
	if err == nil || refused && refusal.GetReason() == clientv1.ErrorReason_ERROR_REASON_ALREADY_SUBSCRIBED { // the user's inbox
		return listener, nil
	}
	return nil, errors.Join(err, listener.Close())
}

// awaitMessage takes what is pushed until the message with this id comes.
func awaitMessage(ctx context.Context, from *carillon.Client, id string) error {
	for {
		select {
		case push, open := <-from.Pushes():
			if !open {
				return from.Err()
			}
			if push.GetMessage().GetMessageId() == id {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
