package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	carillon "github.com/carillon-rt/carillon/clients/go"
	"github.com/carillon-rt/carillon/services/internal/telemetry/telemetrytest"
)

// fairConfig has a namespace of every kind, and little patience with slow readers.
const fairConfig = `
edge: {max_queue_bytes: 512KiB}
console: {trace_url: "http://localhost:16686/trace/{trace}"}
namespaces:
  - name: chat
    history: {max_bytes: 64MiB}
    presence: true
    rules: [{channel: "chat.{room}", subscribe: "true", publish: "true"}]
  - name: cursor
    ephemeral: true
    rules: [{channel: "cursor.{doc}", subscribe: "true", publish: "true"}]
  - name: board
    ephemeral: true
    slow_consumer: latest
    rules: [{channel: "board.{name}", subscribe: "true"}]
  - name: ticker
    ephemeral: true
    slow_consumer: drop
    rules: [{channel: "ticker.{name}", subscribe: "true"}]
  - name: exports
    ephemeral: true
    rules: [{channel: "exports.{name}", subscribe: "true"}]
  - name: user
    history: {max_bytes: 64MiB}
    rules: [{channel: "user.{id}", subscribe: "id == user"}]
  - name: news
    history: {max_bytes: 64MiB}
    rules: [{channel: "news.{topic}", subscribe: "true", publish: "claims.role == 'editor'"}]
`

// BenchmarkScreenshots takes the pictures of docs/: the console of dev after five
// minutes of a crowd in which there is somebody of every kind.
func BenchmarkScreenshots(b *testing.B) {
	const crowded = 5*time.Minute + 5*time.Second // all that the charts show
	dir := b.TempDir()
	file := filepath.Join(dir, "carillon.yaml")
	write(b, file, fairConfig)
	_, s := startDev(b, dir, "--config="+file, "--telemetry.endpoint="+telemetrytest.New(b).Endpoint())
	f := &fair{system: s, token: s.token(b, "service", s.caller), begun: time.Now()}
	ctx, cancel := context.WithCancel(b.Context())
	defer f.Wait()
	defer cancel()
	for _, group := range []func(context.Context){f.talk, f.draw, f.speak, f.flood, f.trespass, f.tidy} {
		group(ctx)
	}
	every(ctx, crowded)

	directory, err := filepath.Abs("../../docs")
	if err != nil {
		b.Fatal(err)
	}
	p := start(b, command{name: "console.mjs", program: node(b), arguments: []string{"js/console.mjs", "--url", s.pages[0], "--screenshots", directory}})
	p.line(b, &p.stdout, "light")
	p.line(b, &p.stdout, "dark")
	if status := p.status(b); status != 0 {
		b.Errorf("exit status %d: %s", status, p.stderr.text())
	}
}

// fair is a crowd, in groups of goroutines that go on until their context ends.
type fair struct {
	sync.WaitGroup
	*system

	token string // a backend's
	begun time.Time
}

// wave goes up and down about 1.
func (f *fair) wave(period time.Duration) float64 {
	return 1 + 0.6*math.Sin(2*math.Pi*time.Since(f.begun).Seconds()/period.Seconds())
}

// talk: people who come to the rooms, stay for a while, go, come back and want what they
// have missed.
func (f *fair) talk(ctx context.Context) {
	for i := range 240 {
		user := fmt.Sprintf("%s-%d", []string{"ada", "ben", "chloe", "dmitri", "esra", "femi"}[i%6], i)
		f.Go(func() {
			var last position
			for every(ctx, time.Duration(i)*20*time.Millisecond%(5*time.Second)) {
				stay := time.Duration((20 + float64(i*7%60)) * f.wave(2*time.Minute) * float64(time.Second))
				last = f.visit(ctx, user, stay, last, fmt.Sprintf("chat.room-%d", i%16))
			}
		})
	}
}

// position is up to where a visitor of chat.lobby has seen everything.
type position struct {
	epoch  string
	offset uint64
}

// visit is one stay of a user in chat.lobby and other channels.
func (f *fair) visit(ctx context.Context, user string, stay time.Duration, last position, channels ...string) position {
	c := f.dial(ctx, user, carillon.Options{Subscriptions: channels})
	if c == nil {
		return last
	}
	defer c.Close()
	if last.epoch == "" {
		if subscribed, err := c.Subscribe(ctx, "chat.lobby"); err == nil {
			last = position{subscribed.GetEpoch(), subscribed.GetOffset()}
		}
	} else if _, err := c.Resume(ctx, "chat.lobby", last.epoch, last.offset); err != nil {
		return position{}
	}
	over := time.After(stay)
	for {
		select {
		case push, ok := <-c.Pushes():
			if !ok {
				return last
			}
			if m := push.GetMessage(); m.GetChannel() == "chat.lobby" {
				last.offset = m.GetOffset()
			}
		case <-over:
			return last
		case <-ctx.Done():
			return last
		}
	}
}

// dial connects a user; nil if that was not to be.
func (f *fair) dial(ctx context.Context, user string, options carillon.Options) *carillon.Client {
	token, err := f.userToken(ctx, user)
	if err != nil {
		return nil // ctx has ended
	}
	options.URL, options.Token, options.Name, options.Version = "ws://"+f.edges[0]+"/v1/ws", token, "web", "2.3"
	c, err := carillon.Dial(ctx, options)
	if err != nil {
		return nil
	}
	return c
}

// draw: people who move their cursors in documents, one of them like mad.
func (f *fair) draw(ctx context.Context) {
	for i := range 12 {
		f.Go(func() {
			document := fmt.Sprintf("cursor.doc-%d", i%3)
			c := f.dial(ctx, fmt.Sprintf("gita-%d", i), carillon.Options{Subscriptions: []string{document}})
			if c == nil {
				return
			}
			defer c.Close()
			f.Go(func() { drain(c) })
			for n := 0; every(ctx, time.Duration(float64(400*time.Millisecond)/f.wave(time.Minute))); n++ {
				times := 1
				if i == 0 && n%80 == 40 {
					times = 70 // more than there may be at once
				}
				for range times {
					_, _ = c.Publish(ctx, document, fmt.Sprintf(`{"x":%d,"y":%d}`, n*37%1280, n*91%800), "") // refused now and then
				}
			}
		})
	}
}

// takes takes what a client is sent for a while, and tells whether it goes on.
func takes(c *carillon.Client, d time.Duration) bool {
	over := time.After(d)
	for {
		select {
		case _, ok := <-c.Pushes():
			if !ok {
				return false
			}
		case <-over:
			return true
		}
	}
}

// drain takes what a client is sent, until it has ended.
func drain(c *carillon.Client) {
	for range c.Pushes() {
	}
}

// speak: a backend that tells the rooms what happens.
func (f *fair) speak(ctx context.Context) {
	f.Go(func() {
		for i := 0; every(ctx, time.Duration(float64(60*time.Millisecond)/f.wave(90*time.Second))); i++ {
			channel := "chat.lobby"
			if i%3 > 0 {
				channel = fmt.Sprintf("chat.room-%d", i*7%16)
			}
			f.post(ctx, f.token, "publish", fmt.Sprintf(`{"channel":%q,"data":{"text":"order %d has left"}}`, channel, 1000+i))
		}
	})
}

// flood: large messages, and readers who do not keep up with them.
func (f *fair) flood(ctx context.Context) {
	narrow := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetReadBuffer(4 << 10) // less is better here, none is as good
		}
		return conn, err
	}}}
	for i, channel := range []string{"board.sales", "ticker.fx", "board.sales", "exports.orders"} {
		f.Go(func() {
			for every(ctx, time.Duration(2+i)*time.Second) {
				c := f.dial(ctx, fmt.Sprintf("hugo-%d", i), carillon.Options{Subscriptions: []string{channel}, PushBuffer: 1, HTTPClient: narrow})
				if c == nil {
					continue
				}
				for every(ctx, 6*time.Second) && takes(c, 6*time.Second) { // a ping waits for 10 s
				}
				_ = c.Close()
			}
		})
	}
	f.Go(func() {
		text := strings.Repeat("0123456789abcdef", 200<<10/16)
		for i := 0; every(ctx, 200*time.Millisecond); i++ {
			if i/100%3 == 2 { // for a while everybody keeps up
				continue
			}
			for _, channel := range []string{"board.sales", "ticker.fx", "exports.orders"} {
				f.post(ctx, f.token, "publish", fmt.Sprintf(`{"channel":%q,"data":{"rows":%q}}`, channel, text))
			}
		}
	})
}

// trespass: who wants what no rule allows, or has no good token.
func (f *fair) trespass(ctx context.Context) {
	f.Go(func() {
		for i := 1; every(ctx, time.Duration(6+i%5)*time.Second); i++ {
			if c := f.dial(ctx, "mallory", carillon.Options{}); c != nil {
				_, _ = c.Publish(ctx, "news.today", `{"text":"sold out"}`, "")
				_, _ = c.Subscribe(ctx, "user.ada-0")
				_ = c.Close()
			}
			if i%3 == 0 {
				_, _ = carillon.Dial(ctx, carillon.Options{URL: "ws://" + f.edges[0] + "/v1/ws", Token: "nonsense", Name: "web"})
			}
			f.post(ctx, "nonsense", "publish", `{"channel":"chat.lobby","data":1}`)
		}
	})
}

// tidy: somebody on call who clears a channel, and says so.
func (f *fair) tidy(ctx context.Context) {
	f.Go(func() {
		for every(ctx, 70*time.Second) {
			f.post(ctx, f.token, "purge", `{"channel":"chat.room-3"}`)
			_, _ = f.ask(ctx, f.pages[0]+"console/api/send", `{"channel":"chat.room-3","data":{"text":"This room was cleared."}}`)
		}
	})
}

// userToken asks for a user's token as the page of dev does.
func (f *fair) userToken(ctx context.Context, user string) (string, error) {
	response, err := f.ask(ctx, f.pages[0]+"dev/token", fmt.Sprintf(`{"user":%q}`, user))
	if err != nil {
		return "", err
	}
	var answer struct{ Token string }
	err = json.Unmarshal(response, &answer)
	return answer.Token, err
}

// ask posts what the page of dev would.
func (f *fair) ask(ctx context.Context, to, body string) (json.RawMessage, error) {
	address, err := url.Parse(to)
	if err != nil {
		return nil, err
	}
	return posted(ctx, to, body, http.Header{"Origin": {"http://" + address.Host}, "Content-Type": {"application/json"}})
}

// post asks the Publish API; what comes of it shows in the picture.
func (f *fair) post(ctx context.Context, token, method, body string) {
	_, _ = posted(ctx, "http://"+f.publishersHTTP[0]+"/v1/"+method, body, http.Header{"Authorization": {"Bearer " + token}})
}

func posted(ctx context.Context, to, body string, header http.Header) (answer json.RawMessage, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header = header
	response, err := httpClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	err = json.NewDecoder(response.Body).Decode(&answer)
	return answer, err
}
