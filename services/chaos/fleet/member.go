package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/carillon-rt/carillon/services/chaos/proxy"
)

// Member is one process of the system, over all its lives: others find it behind
// proxies whose addresses stay, so each life may have ports of its own. Its methods may
// be called concurrently.
type Member struct {
	// Name is for example "edge-1" or "nats-3".
	Name string

	fleet     *Fleet
	program   string
	arguments []string
	// expect makes the lines that say that the process listens.
	expect func() []*line
	// learn finds out where the process listens: by listener, host:port.
	learn func(ctx context.Context, p *process, lines []*line) (map[string]string, error)
	// incoming are the proxies that lead to a listener.
	incoming map[string][]*proxy.Proxy
	// health is the listener and path that answers 200 when all is well.
	health [2]string

	mu        sync.Mutex
	process   *process // nil before the first life
	addresses map[string]string
}

const (
	startPatience = 30 * time.Second
	stopPatience  = 30 * time.Second
)

// Start starts the process, unless it runs, and returns when it listens.
func (m *Member) Start(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process != nil && m.process.running() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	lines := m.expect()
	p, err := m.fleet.spawn(m.Name, lines, m.program, m.arguments...)
	if err != nil {
		return err
	}
	m.process = p
	if m.addresses, err = m.learn(ctx, p, lines); err != nil {
		return err
	}
	for listener, proxies := range m.incoming {
		for _, p := range proxies {
			p.Target(m.addresses[listener])
		}
	}
	return nil
}

// gone makes nobody find the process any more: its ports may soon be another's.
func (m *Member) gone() {
	for _, proxies := range m.incoming {
		for _, p := range proxies {
			p.Target("")
		}
	}
}

// Kill ends the process without a warning, and waits.
func (m *Member) Kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process != nil {
		m.gone()
		m.process.kill()
	}
}

// Stop asks the process to end and waits. An error is an end that was not good.
func (m *Member) Stop() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process == nil || !m.process.running() {
		return nil
	}
	defer m.gone()
	return m.process.stop(stopPatience)
}

// Pause stops the process in its tracks; Resume lets it go on.
func (m *Member) Pause() error { return m.setPaused(true) }

// Resume lets a paused process go on.
func (m *Member) Resume() error { return m.setPaused(false) }

func (m *Member) setPaused(paused bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process == nil || !m.process.running() {
		return nil // whoever killed it meanwhile has won
	}
	return m.process.setPaused(paused)
}

// active tells whether the process runs and is not paused.
func (m *Member) active() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.process != nil && m.process.running() && !m.process.paused
}

// Address is where a listener of the present life is, without a proxy; "" for none.
func (m *Member) Address(listener string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.addresses[listener]
}

// problem is nil if the process says that all is well.
func (m *Member) problem(ctx context.Context) error {
	if !m.active() {
		return errors.New(m.Name + " does not run")
	}
	status, text, err := get(ctx, "http://"+m.Address(m.health[0])+m.health[1])
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", m.Name, err)
	case status != http.StatusOK:
		return fmt.Errorf("%s: %.500s", m.Name, text)
	}
	return nil
}

const getTimeout = 3 * time.Second

// client keeps no connection, so that one that was closed is never tried.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: getTimeout}

func get(ctx context.Context, url string) (int, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 16<<20))
	return response.StatusCode, body, err
}
