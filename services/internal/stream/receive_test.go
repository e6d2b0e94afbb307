package stream

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/time/rate"

	"github.com/carillon-rt/carillon/services/internal/message"
)

func stored(changes ...string) nats.Header {
	header := nats.Header{
		headerSequence:     {"7"},
		headerLastSequence: {"5"},
		headerTimestamp:    {"2026-01-02T03:04:05.000000006Z"},
		headerPublisher:    {"service:billing"},
		"Nats-Stream":      {"CARILLON_chat_0"},
		"Trace":            {"x"},
	}
	for i := 0; i < len(changes); i += 2 {
		header[changes[i]] = []string{changes[i+1]}
	}
	return header
}

func TestDecode(t *testing.T) {
	t.Parallel()
	m, err := decode(&nats.Msg{Subject: "rt.out.12.chat.lobby.x", Header: stored(), Data: []byte("{}")})
	if err != nil {
		t.Fatal(err)
	}
	if m.Channel != "chat.lobby.x" || m.Offset != 7 || m.Previous != 5 || m.Publisher != "service:billing" ||
		m.Time.UnixNano() != time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC).UnixNano() || len(m.Headers) != 1 {
		t.Errorf("%+v", m)
	}
	if m.Purge || m.TTL != 0 {
		t.Errorf("%+v", m)
	}
	if m, err = decode(&nats.Msg{Subject: "rt.out.0.chat.a", Header: stored(headerTTL, "60")}); err != nil || m.TTL != time.Minute {
		t.Errorf("%+v, %v", m, err)
	}
	mark := &nats.Msg{Subject: "rt.out.0.chat.a", Header: stored(headerPurge, "1", headerTTL, "0"), Data: []byte("x")}
	if m, err = decode(mark); err != nil || !m.Purge || m.Offset != 7 || m.Previous != 5 || m.Time.IsZero() || len(m.Payload.Data)+len(m.Publisher)+len(m.Headers) != 0 {
		t.Errorf("%+v, %v", m, err)
	}
	for _, tt := range []struct {
		subject string
		header  nats.Header
		want    string
	}{
		{"rt.out.0.chat.a", stored(headerPurge, "yes"), headerPurge},
		{"rt.out.0.chat.a", stored(headerPurge, "1", headerSequence, "0"), headerSequence},
		{"rt.out.0.chat.a", stored(headerTTL, "0"), headerTTL},
		{"rt.out.0.chat.a", stored(headerTTL, "-1"), headerTTL},
		{"rt.out.0.chat.a", stored(headerTTL, "1.5"), headerTTL},
		{"rt.out.0.chat.a", stored(headerTTL, "9223372037"), headerTTL},
		{"rt.in.0.chat.lobby", stored(), "unknown subject"},
		{"rt.out.0", stored(), "unknown subject"},
		{"rt.out.0.", stored(), "unknown subject"},
		{"rt.eph.", stored(), "unknown subject"},
		{"rt.out.0.chat.a", nil, headerSequence},
		{"rt.out.0.chat.a", stored(headerSequence, "0"), headerSequence},
		{"rt.out.0.chat.a", stored(headerSequence, "9007199254740992"), headerSequence},
		{"rt.out.0.chat.a", stored(headerSequence, "-1"), headerSequence},
		{"rt.out.0.chat.a", stored(headerLastSequence, "7"), headerLastSequence},
		{"rt.out.0.chat.a", stored(headerLastSequence, ""), headerLastSequence},
		{"rt.out.0.chat.a", stored(headerTimestamp, "yesterday"), headerTimestamp},
		{"rt.out.0.chat.a", stored(headerPublisher, "%zz"), headerPublisher},
		{"rt.eph.cursor.a", stored(), headerTime},
		{"rt.eph.cursor.a", stored(headerTime, "1.5"), headerTime},
	} {
		if _, err := decode(&nats.Msg{Subject: tt.subject, Header: tt.header}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %v: error %v, want %q", tt.subject, tt.header, err, tt.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("rt.out.0.chat.a", []byte("NATS/1.0\r\nNats-Sequence: 7\r\nNats-Last-Sequence: 5\r\nNats-Time-Stamp: 2026-01-02T03:04:05Z\r\nA: b\r\n\r\n"))
	f.Add("rt.eph.cursor.a", []byte("NATS/1.0\r\nCarillon-Time: 1\r\nCarillon-Publisher: a%20b\r\n\r\n"))
	f.Add("rt.out.0.chat.a", []byte("NATS/1.0\r\nNats-Sequence: 7\r\nNats-Last-Sequence: 5\r\nNats-Time-Stamp: 2026-01-02T03:04:05Z\r\nCarillon-TTL: 60\r\n\r\n"))
	f.Add("rt.out.0.chat.a", []byte("NATS/1.0\r\nNats-Sequence: 7\r\nNats-Last-Sequence: 5\r\nNats-Time-Stamp: 2026-01-02T03:04:05Z\r\nCarillon-Purge: 1\r\n\r\n"))
	f.Add("rt.out.0.chat.a", []byte("NATS/1.0 503\r\n\r\n"))
	f.Fuzz(func(t *testing.T, subject string, raw []byte) {
		header, err := nats.DecodeHeadersMsg(raw)
		if err != nil {
			return
		}
		m, err := decode(&nats.Msg{Subject: subject, Header: header})
		if err != nil {
			return
		}
		if m.TTL < 0 || m.TTL%time.Second != 0 || m.Purge && (m.TTL != 0 || m.Headers != nil) {
			t.Errorf("%+v", m)
		}
		if m.Channel == "" || m.Offset > maxOffset || m.Offset != 0 && m.Previous >= m.Offset {
			t.Errorf("%+v", m)
		}
		for name := range m.Headers {
			if reserved(name) {
				t.Errorf("header %q", name)
			}
		}
	})
}

func FuzzEpochs(f *testing.F) {
	f.Add(`[{"epoch":"A","first":1},{"epoch":"B","first":9}]`)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, text string) {
		epochs, err := epochsOf(map[string]string{metadataEpochs: text})
		if err == nil && (message.Bounds{Epochs: epochs}).Epoch() == "" {
			t.Errorf("%q has an empty epoch", text)
		}
	})
}

func TestEpochs(t *testing.T) {
	t.Parallel()
	made := firstEpoch(3)
	if epochs, err := epochsOf(made); err != nil || len(epochs) != 1 || len(epochs[0].Epoch) != epochLength || made[metadataPartitions] != "3" {
		t.Errorf("%v: %v, %v", made, epochs, err)
	}
	for text, want := range map[string]message.Epoch{
		`[{"epoch":"A","first":1},{"epoch":"B","first":9}]`: "B",
		`[{"epoch":"A","first":9},{"epoch":"B","first":1}]`: "",
		`[{"epoch":"A","first":0}]`:                         "",
		`[{"epoch":"","first":1}]`:                          "",
		`[]`:                                                "",
		`{`:                                                 "",
	} {
		epochs, err := epochsOf(map[string]string{metadataEpochs: text})
		if epoch := (message.Bounds{Epochs: epochs}).Epoch(); epoch != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", text, epoch, err)
		}
	}
}

func TestForeignMessageIsDroppedNotFatal(t *testing.T) {
	t.Parallel()
	r := newRecorder()
	s := readyStore(t, Options{Embedded: startEmbedded(t), Receiver: r})
	listen(t, s, "cursor.doc")
	if err := s.publisher.nc.Publish("rt.eph.cursor.doc", []byte("not ours")); err != nil {
		t.Fatal(err)
	}
	publish(t, s, text("cursor.doc", "1"))
	eventually(t, "the next message", func() bool { return len(r.of("cursor.doc")) == 1 })
}

func TestCoalescedAnswersOnlyWithWhatWasAskedLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var running sync.WaitGroup
		var asked atomic.Int64
		c := &coalesced[int64]{ctx: t.Context(), timeout: time.Minute, running: &running, ask: func(context.Context) (int64, error) {
			n := asked.Add(1)
			<-time.After(time.Second)
			return n, nil
		}}
		var wg sync.WaitGroup
		expect := func(want int64) {
			wg.Go(func() {
				if got, err := c.do(t.Context()); got != want || err != nil {
					t.Errorf("call %d, %v, want %d", got, err, want)
				}
			})
		}
		expect(1)
		synctest.Wait() // the first is under way: whoever comes now shares the second
		for range 100 {
			expect(2)
		}
		synctest.Wait()
		impatient, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := c.do(impatient); err != context.DeadlineExceeded {
			t.Errorf("error %v", err)
		}
		wg.Wait()
		running.Wait()
		expect(3)
		wg.Wait()
	})
}

// Where many come one after the other, some share a call that begins later, and no call
// began before one of them came; who comes after a pause has an answer at once.
func TestCoalescedIsPaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var running sync.WaitGroup
		calls := 0
		c := &coalesced[time.Time]{
			ctx: t.Context(), timeout: time.Minute, running: &running, pacing: rate.NewLimiter(rate.Every(pace), paceBurst),
			ask: func(context.Context) (time.Time, error) {
				calls++
				return time.Now(), nil
			},
		}
		ask := func() {
			came := time.Now()
			if began, err := c.do(t.Context()); err != nil || began.Before(came) || began.After(came.Add(pace)) {
				t.Errorf("came at %v: an answer from %v, %v", came, began, err)
			}
		}
		const span = time.Second
		var wg sync.WaitGroup
		for at := time.Duration(0); at < span; at += pace / 10 {
			wg.Go(func() {
				<-time.After(at)
				ask()
			})
		}
		wg.Wait()
		if most := int(span/pace) + paceBurst; calls > most || calls < most/2 {
			t.Errorf("%d calls within %v, want about %d", calls, span, most)
		}
		<-time.After(paceBurst * pace)
		for range paceBurst {
			came := time.Now()
			ask()
			if took := time.Since(came); took > 0 {
				t.Errorf("after a pause it took %v", took)
			}
		}
		running.Wait()
	})
}

func TestBackoffGrowsToItsBound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := backoff{next: 100 * time.Millisecond, max: 300 * time.Millisecond}
		for _, ms := range []int{100, 200, 300, 300} {
			want := time.Duration(ms) * time.Millisecond
			began := time.Now()
			if err := b.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took < want/2 || took >= want*3/2 {
				t.Errorf("waited %v, want about %v", took, want)
			}
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := b.wait(ended); err != context.Canceled {
			t.Errorf("error %v", err)
		}
	})
}

// A ttl travels in whole seconds, rounded up, and what is not a ttl is none.
func TestTTLTravels(t *testing.T) {
	t.Parallel()
	for ttl, want := range map[time.Duration]time.Duration{
		0:                           0,
		-time.Second:                0,
		1:                           time.Second,
		time.Second:                 time.Second,
		time.Second + 1:             2 * time.Second,
		365 * 24 * time.Hour:        365 * 24 * time.Hour,
		maxTTL * time.Second:        maxTTL * time.Second, //nolint:durationcheck // it is a number of seconds
		90*time.Second - 1:          90 * time.Second,
		time.Minute + time.Second/2: 61 * time.Second,
	} {
		p := text("chat.a", "1")
		p.TTL = ttl
		m := &encodeStored(p, "rt.in.0.chat.a").msg
		if got, err := decodeTTL(m.Header); got != want || err != nil {
			t.Errorf("%v: %v, %v, want %v", ttl, got, err, want)
		}
		if !sameContent(p, m.Header, m.Data) {
			t.Errorf("%v: the same is other content", ttl)
		}
		p.TTL += 2 * time.Second
		if sameContent(p, m.Header, m.Data) {
			t.Errorf("%v: another ttl is the same content", ttl)
		}
	}
}
