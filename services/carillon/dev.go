package main

import (
	"fmt"
	"net/http"
	"time"

	"github.com/carillon-rt/carillon/services/edge/console"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/config"
	"github.com/carillon-rt/carillon/services/internal/secure"
)

// devTokenTTL is how long the tokens are good that dev prints and its console mints.
const devTokenTTL = 24 * time.Hour

// console serves the page of dev.
func (p *process) console() http.Handler {
	return console.Handler(console.Options{
		API:     p.look.Handler(),
		Mint:    func(user string) (string, error) { return p.mint(auth.ForClients, user) },
		Publish: p.listeners.publish.Addr().String(), PublishHTTP: p.listeners.publishHTTP.Addr().String(),
		CallerToken: p.callerTokenCommand(),
	})
}

// callerTokenCommand is what a person types to get a caller's token.
func (p *process) callerTokenCommand() string {
	command := "go run ./services/carillon token --service " + config.DevCaller
	if dir := p.config.DataDir; dir != "./data" {
		command += fmt.Sprintf(" --data-dir %q", dir)
	}
	return command
}

func (p *process) mint(kind auth.Kind, subject string) (string, error) {
	for _, issuer := range config.DevIssuers(p.config.DataDir) {
		if issuer.For == kind {
			return auth.Sign(issuer, config.Secrets(p.env.getenv), subject, devTokenTTL, nil)
		}
	}
	return "", fmt.Errorf("dev has no issuer for %s", kind)
}

// greet prints what a newcomer needs: where to look, a token, and a command that
// publishes.
func (p *process) greet() error {
	user, err := p.mint(auth.ForClients, "alice")
	if err != nil {
		return err
	}
	caller, err := p.mint(auth.ForCallers, config.DevCaller)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.env.stdout, `
Carillon is running. Open the console as two users:

  http%[5]s://%[1]s/?user=alice
  http%[5]s://%[1]s/?user=bob

A token for the user alice, for ws%[5]s://%[1]s/v1/ws:

  %[2]s

Publish to everybody in chat.lobby:

  curl -s http%[6]s://%[3]s/v1/publish -H 'Authorization: Bearer %[4]s' -d '{"channel":"chat.lobby","data":{"text":"hello"}}'

`, p.listeners.edge.Addr(), user, p.listeners.publishHTTP.Addr(), caller, overTLS(p.config.Edge.TLS), overTLS(p.config.Publish.TLS))
	return err
}

// overTLS is what http and ws have behind them where a listener speaks TLS.
func overTLS(files config.ServerTLS) string {
	if secure.Server(files).Enabled() {
		return "s"
	}
	return ""
}
