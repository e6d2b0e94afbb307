package fleet

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// electionPatience is how long somebody is waited for who leads a stream.
const electionPatience = 15 * time.Second

// Leader is the node that leads a stream, as it says itself. While nobody does it waits
// for some time.
func (f *Fleet) Leader(ctx context.Context, stream string) (*Member, error) {
	ctx, cancel := context.WithTimeout(ctx, electionPatience)
	defer cancel()
	again := time.NewTicker(pollInterval)
	defer again.Stop()
	for {
		leader, err := f.leader(ctx, stream)
		if err == nil {
			return leader, nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return nil, err
		}
	}
}

func (f *Fleet) leader(ctx context.Context, stream string) (*Member, error) {
	for _, node := range f.Nodes {
		if !node.active() {
			continue
		}
		leader, err := LeaderOf(ctx, node.Address(monitorListener), stream)
		if err == nil && leader == node.Name {
			return node, nil
		}
	}
	return nil, fmt.Errorf("nobody says that it leads %s", stream)
}

// Followers are the nodes that run and do not lead a stream.
func (f *Fleet) Followers(ctx context.Context, stream string) ([]*Member, error) {
	leader, err := f.Leader(ctx, stream)
	if err != nil {
		return nil, err
	}
	var followers []*Member
	for _, node := range f.Nodes {
		if node != leader && node.active() {
			followers = append(followers, node)
		}
	}
	if len(followers) == 0 {
		return nil, fmt.Errorf("nobody follows in %s", stream)
	}
	return followers, nil
}

// LeaderOf is whom the NATS server whose monitoring is at an address, host:port, takes for
// the leader of a stream.
func LeaderOf(ctx context.Context, monitoring, stream string) (string, error) {
	_, text, err := get(ctx, "http://"+monitoring+"/jsz?accounts=true&streams=true")
	if err != nil {
		return "", err
	}
	var state struct {
		AccountDetails []struct {
			StreamDetail []struct {
				Name    string `json:"name"`
				Cluster struct {
					Leader string `json:"leader"`
				} `json:"cluster"`
			} `json:"stream_detail"`
		} `json:"account_details"`
	}
	if err := json.Unmarshal(text, &state); err != nil {
		return "", fmt.Errorf("%s: /jsz: %w", monitoring, err)
	}
	for _, account := range state.AccountDetails {
		for _, s := range account.StreamDetail {
			if s.Name == stream {
				return s.Cluster.Leader, nil
			}
		}
	}
	return "", fmt.Errorf("%s knows no stream %s", monitoring, stream)
}

// StepDown makes the leader of a stream give up.
func (f *Fleet) StepDown(ctx context.Context, stream string) error {
	return f.request(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+stream)
}

// request asks the cluster for something, through the first node that answers.
func (f *Fleet) request(ctx context.Context, subject string) error {
	var errs []error
	for _, node := range f.Nodes {
		if !node.active() {
			continue
		}
		answer, err := ask(ctx, node.Address(clientListener), subject)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", node.Name, err))
			continue
		}
		var response struct {
			Success bool `json:"success"`
			Error   struct {
				Description string `json:"description"`
			} `json:"error"`
		}
		if err := json.Unmarshal(answer, &response); err != nil {
			return fmt.Errorf("%s: %w", subject, err)
		}
		if !response.Success {
			return fmt.Errorf("%s: %s", subject, response.Error.Description)
		}
		return nil
	}
	return errors.Join(append(errs, fmt.Errorf("%s: nobody answers", subject))...)
}

const (
	askTimeout     = 5 * time.Second
	maxAnswerBytes = 1 << 20
)

// ask sends one request in the text protocol of NATS
// (docs.nats.io/reference/reference-protocols/nats-protocol) and returns the answer.
func ask(ctx context.Context, address, subject string) (_ []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	const inbox = "_INBOX.chaos"
	if _, err := fmt.Fprintf(conn, "CONNECT {\"verbose\":false,\"name\":\"chaos\"}\r\nSUB %s 1\r\nPUB %s %s 0\r\n\r\n", inbox, subject, inbox); err != nil {
		return nil, err
	}
	in := bufio.NewReader(conn)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return nil, err
		}
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
		case words[0] == "-ERR":
			return nil, errors.New(strings.TrimSpace(line))
		case words[0] == "PING":
			if _, err := io.WriteString(conn, "PONG\r\n"); err != nil {
				return nil, err
			}
		case words[0] == "MSG":
			size, err := strconv.Atoi(words[len(words)-1])
			if err != nil || size < 0 || size > maxAnswerBytes {
				return nil, fmt.Errorf("%q", line)
			}
			answer := make([]byte, size)
			_, err = io.ReadFull(in, answer)
			return answer, err
		}
	}
}
