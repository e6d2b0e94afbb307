package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/config"
	"github.com/carillon-rt/carillon/services/internal/rpc"
	"github.com/carillon-rt/carillon/services/internal/secure"
	"github.com/carillon-rt/carillon/services/internal/secure/securetest"
)

// secured is a system whose listeners all speak TLS, and that knows the caller billing
// by its certificate.
type secured struct {
	authority *securetest.Authority
	ca        string // file
	file      string // the configuration's
	at        map[string]string
	presence  string // address of the one that edges report to
	env       map[string]string
}

// startSecured starts it as two processes: presence is asked of the other.
func startSecured(t *testing.T) *secured {
	t.Helper()
	s := &secured{authority: securetest.NewAuthority(t), env: map[string]string{"SECRET": testSecret, "ROLES": testSecret}}
	s.ca = s.authority.Write(t, filepath.Join(t.TempDir(), "ca.pem"))
	files := s.authority.Server(t)
	pair := fmt.Sprintf("cert_file: %q, key_file: %q", files.CertFile, files.KeyFile)
	text := func(presence string) string {
		return fmt.Sprintf(`
auth:
  roles_secret: {env: ROLES}
  issuers:
    - {name: main, for: clients, algorithms: [HS256], secret: {env: SECRET}}
    - {name: services, for: callers, algorithms: [HS256], secret: {env: SECRET}}
callers:
  - {name: billing, certificate: billing.example, publish: ["chat.{rest...}"]}
  - {name: ci, publish: ["chat.{rest...}"], presence: ["chat.{rest...}"]}
namespaces: [{name: chat, presence: true, history: {max_bytes: 16MiB}, rules: [{channel: "chat.{room}", subscribe: "true"}]}]
edge: {tls: {%[1]s}}
publish: {tls: {%[1]s, client_ca_file: %[2]q}}
presence: {tls: {%[1]s}%[3]s}
`, pair, s.ca, presence)
	}
	there := serving(t, text(""), s.env)
	here := text(fmt.Sprintf(`, addresses: [%q], dial_tls: {ca_file: %q}`, there["presence"], s.ca))
	s.file, s.at, s.presence = writeFile(t, here), serving(t, here, s.env), there["presence"]
	return s
}

func (s *secured) command(t *testing.T, arguments ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := run(t.Context(), arguments, func(name string) string { return s.env[name] }, &out, io.Discard)
	return out.String(), err
}

func (s *secured) token(t *testing.T, arguments ...string) string {
	t.Helper()
	out, err := s.command(t, append([]string{"token", "--config", s.file}, arguments...)...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// tail follows a channel and returns once it does; line waits for a message.
func (s *secured) tail(t *testing.T, channel string) (line func() string) {
	t.Helper()
	token := s.token(t, "--user", "alice")
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	printed, stdout := io.Pipe()
	following, stderr := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, []string{"tail", channel, "--server", "wss://" + s.at["edge"] + "/v1/ws", "--ca", s.ca, "--token", token},
			noEnvironment, stdout, stderr)
		ended <- errors.Join(err, stdout.Close(), stderr.Close())
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	read := func(from io.Reader) string {
		lines := bufio.NewScanner(from)
		lines.Scan()
		go func() { _, _ = io.Copy(io.Discard, from) }() // ends with the command
		return lines.Text()
	}
	if told := read(following); !strings.HasPrefix(told, "following "+channel) {
		t.Fatalf("tail says %q", told)
	}
	return func() string { return read(printed) }
}

func TestTLSEverywhere(t *testing.T) {
	t.Parallel()
	s := startSecured(t)
	caller := s.token(t, "--service", "ci")
	line := s.tail(t, "chat.lobby") // over an edge that asks presence over TLS

	send := func(server string, more ...string) error {
		_, err := s.command(t, append([]string{"send", "chat.lobby", `"over TLS"`, "--server", server, "--token", caller}, more...)...)
		return err
	}
	if err := send("https://"+s.at["publish"], "--ca", s.ca); err != nil {
		t.Error(err)
	}
	if got := line(); !strings.Contains(got, `"over TLS"`) {
		t.Errorf("tail prints %q", got)
	}
	if err := send("https://" + s.at["publish"]); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("without --ca: %v", err)
	}
	if err := send(s.at["publish"]); err == nil {
		t.Error("without TLS a message was published")
	}
	if err := send(s.at["publish"], "--ca", s.ca); err == nil || !strings.Contains(err.Error(), "https://") {
		t.Errorf("--ca without https: %v", err)
	}
	s.tellsOfCertificates(t)
	eventually(t, func() error {
		out, err := s.command(t, "who", "chat.lobby", "--server", "https://"+s.presence, "--ca", s.ca, "--token", caller)
		if err == nil && !strings.HasPrefix(out, "alice\t1\t") {
			err = fmt.Errorf("who prints %q", out)
		}
		return err
	})
}

// tellsOfCertificates wants the end of every file among the metrics: what it serves with,
// and whom it trusts.
func (s *secured) tellsOfCertificates(t *testing.T) {
	t.Helper()
	response, err := http.Get("http://" + s.at["ops"] + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^carillon_tls_certificate_expiry_timestamp_seconds\{file="([^"]+)"\} (\S+)$`).FindAllStringSubmatch(string(text), -1)
	if len(found) != 2 || !slices.ContainsFunc(found, func(f []string) bool { return f[1] == s.ca }) {
		t.Errorf("the metrics tell of %q", found)
	}
	for _, f := range found {
		if end, err := strconv.ParseFloat(f[2], 64); err != nil || time.Until(time.Unix(int64(end), 0)) < 50*time.Minute {
			t.Errorf("%s ends at %s (%v), want in an hour", f[1], f[2], err)
		}
	}
}

// Who dials again and again adds nothing, and of a file with two uses the first end counts.
func TestCertificatesAreNotedOnce(t *testing.T) {
	t.Parallel()
	authority, dir := securetest.NewAuthority(t), t.TempDir()
	var text []byte
	end := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	for _, ends := range []time.Time{end, end.Add(time.Hour)} {
		certFile, _ := authority.Files(t, dir, securetest.Options{NotAfter: ends})
		one, err := os.ReadFile(certFile)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, one...)
	}
	file := writeFile(t, string(text))
	var c certificates
	for range 3 {
		c.add(secure.Client{CAFile: file})
		c.add(secure.Server{CertFile: file})
	}
	if got, want := c.expiries(), map[string]time.Time{file: end}; len(c.files) != 2 || !maps.Equal(got, want) {
		t.Errorf("%d are noted, and tell %v, want %v", len(c.files), got, want)
	}
}

// probe holds to --ca whichever of the two is over TLS.
func TestProbeWithOneSideOverTLS(t *testing.T) {
	t.Parallel()
	authority := securetest.NewAuthority(t)
	ca, files := authority.Write(t, filepath.Join(t.TempDir(), "ca.pem")), authority.Server(t)
	for role, urls := range map[string][2]string{"edge": {"wss://", ""}, "publish": {"ws://", "https://"}} {
		text := fmt.Sprintf(`
auth:
  issuers:
    - {name: main, for: clients, algorithms: [HS256], secret: {env: SECRET}}
    - {name: services, for: callers, algorithms: [HS256], secret: {env: SECRET}}
callers: [{name: ci, publish: ["chat.{rest...}"]}]
namespaces: [{name: chat, ephemeral: true, rules: [{channel: "chat.{room}", subscribe: "true"}]}]
%s: {tls: {cert_file: %q, key_file: %q}}
`, role, files.CertFile, files.KeyFile)
		s := &secured{env: map[string]string{"SECRET": testSecret}}
		s.file, s.at = writeFile(t, text), serving(t, text, s.env)
		probe := func(edge, publish string) (string, error) {
			return s.command(t, "probe", "chat.lobby", "--ca", ca, "--user-token", s.token(t, "--user", "alice"), "--token", s.token(t, "--service", "ci"),
				"--edge", edge+s.at["edge"]+"/v1/ws", "--publish", publish+s.at["publish"])
		}
		if out, err := probe(urls[0], urls[1]); err != nil || strings.Count(out, "\n") != 3 {
			t.Errorf("%s over TLS: %q, %v", role, out, err)
		}
		for plain, over := range map[string]string{"ws://": "wss://", "http://": "https://"} {
			want := "--ca: is for a server over TLS, as " + over + s.at["edge"] + "/v1/ws or https://" + s.at["publish"]
			if _, err := probe(plain, ""); err == nil || err.Error() != want {
				t.Errorf("neither: %v, want %s", err, want)
			}
		}
	}
}

// A caller may be known by its certificate, over gRPC and over HTTP, where nothing that
// a request says takes the certificate's place.
func TestCallersByCertificate(t *testing.T) {
	t.Parallel()
	s := startSecured(t)
	billing, stranger := s.authority.Issue(t, securetest.Options{Name: "billing.example"}), s.authority.Issue(t, securetest.Options{Name: "stranger.example"})
	post := func(certificate *tls.Certificate, headers ...string) (int, string) {
		t.Helper()
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.authority.Pool()}}
		defer transport.CloseIdleConnections()
		if certificate != nil {
			transport.TLSClientConfig.Certificates = []tls.Certificate{*certificate}
		}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+s.at["publish.http"]+"/v1/publish", strings.NewReader(`{"channel":"chat.lobby","data":1}`))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		answer, err := (&http.Client{Transport: transport, Timeout: 20 * time.Second}).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(body)
	}
	for _, tt := range []struct {
		name        string
		certificate *tls.Certificate
		headers     []string
		status      int
		part        string
	}{
		{"its certificate", &billing, nil, 200, `"offset"`},
		{"another's", &stranger, nil, 403, "CALLER_UNKNOWN"},
		{"none", nil, nil, 401, "TOKEN_MISSING"},
		{"none, and claims", nil, []string{"Carillon-Vouched", "AAAA", "Grpc-Metadata-Carillon-Vouched", "AAAA", "X-Forwarded-Client-Cert", "DNS=billing.example"}, 401, "TOKEN_MISSING"},
		{"a bad token beside it", &billing, []string{"Authorization", "Bearer x"}, 401, "TOKEN_"},
		{"what is no token beside it", &billing, []string{"Authorization", "Basic x"}, 401, "TOKEN_MALFORMED"},
	} {
		if status, body := post(tt.certificate, tt.headers...); status != tt.status || !strings.Contains(body, tt.part) {
			t.Errorf("%s: %d %s, want %d %s", tt.name, status, body, tt.status, tt.part)
		}
	}

	c := secure.Client{CAFile: s.ca}
	c.CertFile, c.KeyFile = s.authority.Files(t, t.TempDir(), securetest.Options{Name: "billing.example"})
	current, err := secure.NewClient(c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := rpc.DialTLS([]string{s.at["publish"]}, nil, current)
	if err != nil {
		t.Fatal(err)
	}
	_, err = publishv1.NewPublishServiceClient(conn).Publish(t.Context(), &publishv1.PublishRequest{
		Target: &publishv1.PublishRequest_Channel{Channel: "chat.lobby"}, Payload: &publishv1.PublishRequest_Json{Json: "2"},
	})
	if err := errors.Join(err, conn.Close()); err != nil {
		t.Errorf("over gRPC: %v", err)
	}
}

func TestAnOpenListenerIsWarnedOf(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	p := &process{logger: slog.New(slog.NewTextHandler(&log, nil))}
	for address, want := range map[string]bool{"127.0.0.1:1": false, "[::1]:1": false, "127.1.2.3:1": false, "[::]:1": true, "0.0.0.0:1": true, "192.0.2.1:1": true} {
		at, err := net.ResolveTCPAddr("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		log.Reset()
		p.warnOpen("edge.tls", at, config.ServerTLS{})
		if got := strings.Contains(log.String(), "edge.tls"); got != want {
			t.Errorf("%s: %q", address, log.String())
		}
		log.Reset()
		if p.warnOpen("edge.tls", at, config.ServerTLS{CertFile: "x", KeyFile: "y"}); log.Len() > 0 {
			t.Errorf("%s over TLS: %q", address, log.String())
		}
	}
}

// Every listener of dev that speaks HTTP answers only to names of this machine.
func TestDevAnswersOnlyToThisMachine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	greeting, stdout := io.Pipe()
	log, stderr := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, devArguments(dir), noEnvironment, stdout, stderr)
		ended <- errors.Join(err, stdout.Close(), stderr.Close())
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	at := map[string]string{}
	lines := bufio.NewScanner(log)
	for len(at) < 5 && lines.Scan() {
		if _, rest, ok := strings.Cut(lines.Text(), "msg=listening on="); ok {
			name, address, _ := strings.Cut(rest, " address=")
			at[name] = address
		}
	}
	go func() { _, _ = io.Copy(io.Discard, log) }() // ends with dev
	readGreeting(t, greeting)
	go func() { _, _ = io.Copy(io.Discard, greeting) }()

	for name, path := range map[string]string{"edge": "/v1/ws", "publish.http": "/v1/messages", "ops": "/metrics"} {
		for host, misdirected := range map[string]bool{"evil.example": true, "evil.example:8080": true, "localhost": false, at[name]: false} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+at[name]+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Host, r.Close = host, true
			answer, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			_ = answer.Body.Close()
			if got := answer.StatusCode == http.StatusMisdirectedRequest; got != misdirected {
				t.Errorf("%s to Host %q: %d", name, host, answer.StatusCode)
			}
		}
	}
}
