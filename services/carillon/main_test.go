package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	carillon "github.com/carillon-rt/carillon/clients/go"
	"github.com/carillon-rt/carillon/services/internal/config"
)

// The NATS server leaves these behind where it is stopped while it makes a stream, as a
// process is that gets its signal at once.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"),
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"))
}

// devArguments run dev on ports of its own.
func devArguments(dir string) []string {
	arguments := []string{"dev", "--data-dir", dir}
	for _, listener := range []string{"edge.listen", "presence.listen", "publish.listen", "publish.http-listen", "ops.listen"} {
		arguments = append(arguments, "--"+listener, "127.0.0.1:0")
	}
	return arguments
}

func noEnvironment(string) string { return "" }

// Every role starts in one process and, with somebody connected, stops again; the
// directory is then free for the next. TestMain sees that no goroutine is left.
func TestDevStopsWhole(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for range 2 {
		ctx, stop := context.WithCancel(t.Context())
		output, stdout := io.Pipe()
		ended := make(chan error, 1)
		go func() {
			err := run(ctx, devArguments(dir), noEnvironment, stdout, io.Discard)
			ended <- errors.Join(err, stdout.Close())
		}()
		greeting := readGreeting(t, output)
		dialling, cancel := context.WithTimeout(ctx, 10*time.Second)
		client, err := carillon.Dial(dialling, carillon.Options{
			URL:           regexp.MustCompile(`ws://\S+/v1/ws`).FindString(greeting),
			Token:         strings.TrimSpace(regexp.MustCompile(`(?m)^  ey\S+$`).FindString(greeting)),
			Subscriptions: []string{"chat.lobby"},
		})
		cancel()
		if err != nil {
			t.Error(err)
		}
		stop()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("dev does not stop")
		}
		if client != nil {
			_ = client.Close() // which the edge has closed
		}
	}
}

// readGreeting reads what dev prints, which ends with the curl command.
func readGreeting(t *testing.T, from io.Reader) string {
	t.Helper()
	var all bytes.Buffer
	buffer := make([]byte, 4<<10)
	for !strings.Contains(all.String(), "curl -s") {
		n, err := from.Read(buffer)
		all.Write(buffer[:n])
		if err != nil {
			t.Fatalf("dev prints %q, then %v", all.String(), err)
		}
	}
	return all.String()
}

// A start that fails takes down what had started before it, embedded NATS included.
func TestStartThatFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	output, stdout := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, devArguments(dir), noEnvironment, stdout, io.Discard)
		ended <- errors.Join(err, stdout.Close())
	}()
	readGreeting(t, output)
	var printed bytes.Buffer
	err := run(ctx, devArguments(dir), noEnvironment, &printed, io.Discard)
	if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "nats")+" is in use by another process") || printed.Len() > 0 {
		t.Errorf("on a directory in use: %v, prints %q", err, printed.String())
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A variable that is nearly an option's keeps a process from starting; one that is not is
// told of, and one of another command, or of Kubernetes, is neither.
func TestVariablesThatAreNoOptions(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	variables := []string{"CARILLON_REGION=north", "CARILLON_TOKEN=x", "CARILLON_USER_TOKEN=x", "CARILLON_EDGE_PORT=tcp://10.0.0.1:8080"}
	var printed, log bytes.Buffer
	check := []string{"config", "check", "--for=dev"}
	if err := run(t.Context(), check, noEnvironment, &printed, &log, variables...); err != nil || printed.String() != "OK\nwarning: the environment variable CARILLON_REGION is no option\n" {
		t.Errorf("config check: %v, prints %s", err, printed.String())
	}
	start := append(devArguments(t.TempDir()), "--ops.listen="+taken.Addr().String()) // so that it gets no further
	err = run(t.Context(), start, noEnvironment, io.Discard, &log, variables...)
	if _, refused := errors.AsType[config.Problems](err); err == nil || refused || strings.Count(log.String(), "names=CARILLON_REGION\n") != 1 {
		t.Errorf("dev: %v, logs\n%s", err, log.String())
	}
	for _, arguments := range [][]string{check, start} {
		err := run(t.Context(), arguments, noEnvironment, io.Discard, io.Discard, append(variables, "CARILLON_EDGE_LISTN=:1")...)
		problems, _ := errors.AsType[config.Problems](err)
		if want := "the environment variable CARILLON_EDGE_LISTN is no option; did you mean CARILLON_EDGE_LISTEN?"; len(problems) != 1 || problems[0] != want {
			t.Errorf("%q: %v", arguments, err)
		}
	}
}

// Problems of rules carry the place of their namespace, so that the file's line is
// found, also where a name is wrong or stands twice.
func TestCheckRules(t *testing.T) {
	t.Parallel()
	file := writeFile(t, `namespaces:
  - {name: a, ephemeral: true, rules: [{channel: "a.{x}", subscribe: "x"}]}
  - name: b
    ephemeral: true
    rules:
      - {channel: "b.{x}", publish: "nope"}
  - {name: a, ephemeral: true, rules: [{channel: "a.{x}", presence: "1"}]}
`)
	err := run(t.Context(), []string{"config", "check", "--for=dev", "--config", file}, noEnvironment, io.Discard, io.Discard)
	problems, _ := errors.AsType[config.Problems](err)
	got := strings.Join(problems, "\n")
	name := filepath.Base(file)
	want := strings.Join([]string{
		`namespaces[2].name: "a" is also the name of [0] (` + name + ":7)",
		"namespaces[0].rules[0].subscribe: the result is string, not bool (" + name + ":2)",
		"namespaces[1].rules[0].publish: 1:1: undeclared reference to 'nope' (in container '') (" + name + ":6)",
		"namespaces[2].rules[0].presence: the result is int, not bool (" + name + ":7)",
	}, "\n")
	if got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}
