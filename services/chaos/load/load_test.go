package load

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/chaos/checker"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// store is a Publish API that keeps its promises and fails all the time: before it has
// stored a message, after it, and by breaking streams.
type store struct {
	publishv1.UnimplementedPublishServiceServer
	publishv1.UnimplementedHistoryServiceServer

	mu     sync.Mutex
	random *rand.Rand
	offset uint64
	kept   map[string][]*publishv1.StoredMessage // by channel
	broken int                                   // streams
	mute   int                                   // streams that are to answer nothing
}

// unknownIDs is what one stream or batch keeps of its channels: the id whose outcome is
// unknown.
type unknownIDs map[string]string

const epoch = "E"

// publish stores a message, or fails.
func (s *store) publish(request *publishv1.PublishRequest, unknown unknownIDs) (*publishv1.PublishResponse, *publishv1.PublishError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	channel, id := request.GetChannel(), request.GetMessageId()
	if u := request.GetUserId(); u != "" {
		channel = "user." + u
	}
	if first, ok := unknown[channel]; ok && first != id {
		return nil, refusal(fault.EarlierPublishUnknown)
	}
	delete(unknown, channel)
	chance := s.random.IntN(10)
	if chance == 0 {
		unknown[channel] = id
		return nil, refusal(fault.StoreUnavailable)
	}
	kept := s.kept[channel]
	if i := slices.IndexFunc(kept, func(m *publishv1.StoredMessage) bool { return m.GetMessageId() == id }); i >= 0 {
		return &publishv1.PublishResponse{Epoch: epoch, Offset: kept[i].GetOffset(), Duplicate: true}, nil
	}
	last := uint64(0)
	if len(kept) > 0 {
		last = kept[len(kept)-1].GetOffset()
	}
	if request.ExpectedLastOffset != nil && (request.GetExpectedLastOffset() != last || request.GetExpectedEpoch() != epoch) {
		return nil, refusal(fault.ChannelMoved)
	}
	s.offset++
	s.kept[channel] = append(kept, &publishv1.StoredMessage{
		Offset: s.offset, Publisher: publisher, MessageId: id, Payload: &publishv1.StoredMessage_Json{Json: request.GetJson()},
	})
	if chance == 1 {
		unknown[channel] = id
		return nil, refusal(fault.StoreUnavailable)
	}
	return &publishv1.PublishResponse{Epoch: epoch, Offset: s.offset}, nil
}

func refusal(reason fault.Reason) *publishv1.PublishError {
	return &publishv1.PublishError{
		Code: fault.New(reason, "", "").CodeName(), Reason: clientv1.ErrorReason(clientv1.ErrorReason_value["ERROR_REASON_"+string(reason)]),
	}
}

func (s *store) Publish(_ context.Context, request *publishv1.PublishRequest) (*publishv1.PublishResponse, error) {
	answer, refused := s.publish(request, unknownIDs{})
	if refused != nil {
		return nil, fault.New(fault.Reason(strings.TrimPrefix(refused.GetReason().String(), "ERROR_REASON_")), "", "no")
	}
	return answer, nil
}

func (s *store) PublishBatch(_ context.Context, request *publishv1.PublishBatchRequest) (*publishv1.PublishBatchResponse, error) {
	unknown, answer := unknownIDs{}, &publishv1.PublishBatchResponse{}
	for _, m := range request.GetMessages() {
		result := &publishv1.PublishResult{}
		if published, refused := s.publish(m, unknown); refused != nil {
			result.Result = &publishv1.PublishResult_Error{Error: refused}
		} else {
			result.Result = &publishv1.PublishResult_Published{Published: published}
		}
		answer.Results = append(answer.Results, result)
	}
	if s.chance(10) {
		return nil, status.Error(codes.Unavailable, "after all was stored")
	}
	return answer, nil
}

func (s *store) chance(of int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.random.IntN(of) == 0
}

func (s *store) PublishStream(stream publishv1.PublishService_PublishStreamServer) error {
	s.mu.Lock()
	mute := s.mute > 0
	s.mute--
	s.mu.Unlock()
	if mute {
		<-stream.Context().Done()
		return nil
	}
	unknown := unknownIDs{}
	for {
		request, err := stream.Recv()
		if err != nil {
			return nil //nolint:nilerr // the caller has closed its side, or is gone
		}
		answer := &publishv1.PublishStreamResponse{Id: request.GetId()}
		if published, refused := s.publish(request.GetMessage(), unknown); refused != nil {
			answer.Result = &publishv1.PublishStreamResponse_Error{Error: refused}
		} else {
			answer.Result = &publishv1.PublishStreamResponse_Published{Published: published}
		}
		if s.chance(40) {
			s.mu.Lock()
			s.broken++
			s.mu.Unlock()
			return status.Error(codes.Unavailable, "broken")
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
	}
}

func (s *store) ListMessages(_ context.Context, request *publishv1.ListMessagesRequest) (*publishv1.ListMessagesResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	page := &publishv1.ListMessagesResponse{Epoch: epoch}
	kept := s.kept[request.GetChannel()]
	if request.GetNewestFirst() {
		page.Messages = slices.Clone(kept[max(0, len(kept)-int(request.GetLimit())):])
		slices.Reverse(page.Messages)
		return page, nil
	}
	for _, m := range kept {
		if m.GetOffset() <= request.GetAfter().GetOffset() {
			continue
		}
		if len(page.GetMessages()) == 3 { // few, so that there are pages
			page.More = true
			break
		}
		page.Messages = append(page.Messages, m)
	}
	return page, nil
}

func (s *store) PurgeChannel(_ context.Context, request *publishv1.PurgeChannelRequest) (*publishv1.PurgeChannelResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offset++
	s.kept[request.GetChannel()] = nil
	return &publishv1.PurgeChannelResponse{Epoch: epoch, Offset: s.offset}, nil
}

// newLoad is a Load without clients before a store.
func newLoad(t *testing.T, s *store) (*Load, *grpc.ClientConn) {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	publishv1.RegisterPublishServiceServer(server, s)
	publishv1.RegisterHistoryServiceServer(server, s)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	conn, err := grpc.NewClient("passthrough:///store", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		serving.Wait()
	})
	l := &Load{
		options: Options{
			Channels: []string{"chat.a", "chat.b", "chat.c"}, Chained: []string{"chat.chain"}, Clients: 2, Rate: 1, Seed: 1,
			Tokens: newTokens(t), Check: checker.New(), Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), History: t.Output(),
		},
		stop: make(chan struct{}),
	}
	l.backend = newBackend(l, conn)
	return l, conn
}

func newTokens(t *testing.T) *Tokens {
	t.Helper()
	issuer := func(name string, kind auth.Kind) auth.Issuer {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(strings.Repeat(name[:1], 32)), 0o600); err != nil {
			t.Fatal(err)
		}
		return auth.Issuer{Name: name, For: kind, Algorithms: []string{"HS256"}, Secret: auth.Secret{File: file}}
	}
	return NewTokens(issuer("users", auth.ForClients), issuer("services", auth.ForCallers))
}

// Whatever fails, each way to publish keeps the order, and the checker hears of
// everything: what it finds broken would be the publisher's fault.
func TestPublishersKeepOrder(t *testing.T) {
	t.Parallel()
	const enough = 120
	ways := map[string]func(context.Context, *Load, *grpc.ClientConn, *source){
		"unary":  func(ctx context.Context, l *Load, _ *grpc.ClientConn, s *source) { l.backend.unary(ctx, s) },
		"batch":  func(ctx context.Context, l *Load, _ *grpc.ClientConn, s *source) { l.backend.batches(ctx, s) },
		"stream": func(ctx context.Context, l *Load, conn *grpc.ClientConn, s *source) { newStreamer(l, conn, s).run(ctx) },
		"chain": func(ctx context.Context, l *Load, _ *grpc.ClientConn, s *source) {
			l.backend.chain(ctx, s, l.options.Chained[0])
		},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &store{random: rand.New(rand.NewPCG(1, 2)), kept: map[string][]*publishv1.StoredMessage{}}
			l, conn := newLoad(t, s)
			source := l.source(name+"-1", time.Millisecond)
			source.inboxes, source.ttls = name == "unary", name == "unary"
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			l.publishing.Go(func() { way(ctx, l, conn, source) })
			l.publishing.Go(func() {
				look := time.NewTicker(5 * time.Millisecond)
				defer look.Stop()
				for s.count() < enough && ctx.Err() == nil {
					<-look.C
				}
				close(l.stop)
			})
			l.publishing.Wait()
			l.clients = []*client{{user: userName(0)}, {user: userName(1)}}
			if err := l.Record(ctx); err != nil {
				t.Error(err)
			}
			report := l.options.Check.Check()
			if !report.OK() || len(l.Problems()) > 0 || report.Acked < enough || report.Unknown > 0 {
				t.Errorf("%v\n%v", report, l.Problems())
			}
			if report.Duplicates == 0 {
				t.Error("nothing was stored by an attempt that failed")
			}
			if name == "stream" && s.broken == 0 {
				t.Error("no stream was broken")
			}
		})
	}
}

func (s *store) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.offset)
}

// A stream that answers nothing is left for another one.
func TestAStreamThatSaysNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &store{random: rand.New(rand.NewPCG(1, 2)), kept: map[string][]*publishv1.StoredMessage{}, mute: 1}
		l, conn := newLoad(t, s)
		began := time.Now()
		l.publishing.Go(func() { newStreamer(l, conn, l.source("stream-1", time.Second)).run(t.Context()) })
		for s.count() == 0 && time.Since(began) < patience {
			time.Sleep(pollStep) // of the bubble
		}
		took := time.Since(began)
		close(l.stop)
		l.publishing.Wait()
		if took < answerPatience || took > answerPatience+streamBurst*time.Second+lull+2*time.Second {
			t.Errorf("the first message was stored after %v", took)
		}
		if report := l.options.Check.Check(); report.Acked < streamBurst || report.Acked < report.Attempted {
			t.Errorf("%v", report)
		}
	})
}

const pollStep = 10 * time.Millisecond

// A purge is told to the checker, so that nothing counts as lost.
func TestPurges(t *testing.T) {
	t.Parallel()
	s := &store{random: rand.New(rand.NewPCG(1, 2)), kept: map[string][]*publishv1.StoredMessage{}}
	l, _ := newLoad(t, s)
	l.options.Purged = []string{"wiped.a"}
	source := l.source("unary-1", time.Millisecond)
	source.channels = l.options.Purged
	for range 5 {
		m := source.next()
		m.begin(source, publisher)
		l.backend.send(t.Context(), source, m, m.request())
	}
	l.backend.purge(t.Context(), "wiped.a")
	if err := l.Record(t.Context()); err != nil {
		t.Fatal(err)
	}
	if report := l.options.Check.Check(); !report.OK() || report.Acked != 5 || len(s.kept["wiped.a"]) != 0 {
		t.Errorf("%d are kept\n%v", len(s.kept["wiped.a"]), report)
	}
}

// A chain that has a link too many is found.
func TestChainIsChecked(t *testing.T) {
	t.Parallel()
	s := &store{kept: map[string][]*publishv1.StoredMessage{"chat.chain": {
		{Offset: 3, MessageId: "chain-1/1", Payload: &publishv1.StoredMessage_Json{Json: `{"after":0}`}},
		{Offset: 5, MessageId: "chain-1/2", Payload: &publishv1.StoredMessage_Json{Json: `{"after":3}`}},
		{Offset: 6, MessageId: "chain-1/3", Payload: &publishv1.StoredMessage_Json{Json: `{"after":3}`}},
	}}}
	l, _ := newLoad(t, s)
	if err := l.Record(t.Context()); err != nil {
		t.Fatal(err)
	}
	if problems := fmt.Sprint(l.Problems()); len(l.Problems()) != 1 || !strings.Contains(problems, `"chain-1/3" at 6 was to follow 3 and follows 5`) {
		t.Error(problems)
	}
}

// Who comes when a message has outlived its ttl is not waited for to get it.
func TestTheHeadIsWhatEverybodyGets(t *testing.T) {
	t.Parallel()
	short := durationpb.New(time.Second)
	s := &store{kept: map[string][]*publishv1.StoredMessage{
		"chat.a": {{Offset: 3}, {Offset: 5}, {Offset: 6, Ttl: short}, {Offset: 8, Ttl: short}}, "chat.b": {{Offset: 7, Ttl: short}},
	}}
	l, _ := newLoad(t, s)
	for channel, want := range map[string]uint64{"chat.a": 5, "chat.b": 0, "chat.c": 0} {
		if got := l.headOf(t.Context(), channel); got.GetOffset() != want || got.GetEpoch() != epoch {
			t.Errorf("%s: %v, want %d", channel, got, want)
		}
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		reason         fault.Reason
		code           codes.Code // where there is no reason
		again, unknown bool
	}{
		{reason: fault.StoreUnavailable, again: true, unknown: true},
		{reason: fault.Draining, again: true, unknown: true},
		{reason: fault.Timeout, again: true, unknown: true},
		{reason: fault.Internal, again: true, unknown: true},
		{code: codes.Unavailable, again: true, unknown: true},
		{code: codes.Canceled, again: true, unknown: true},
		{reason: fault.EarlierPublishUnknown, again: true},
		{reason: fault.TokenExpired, again: true},
		{reason: fault.PublishRace, again: true},
		{reason: fault.RateLimited, again: true},
		{reason: fault.PublishOvertaken},
		{reason: fault.ChannelMoved},
		{reason: fault.MessageIDReused},
		{reason: fault.FieldInvalid},
	} {
		check := checker.New()
		m := &message{until: time.Now().Add(time.Hour), attempt: check.Attempt(checker.Publication{Channel: "chat.a", Publisher: "p", ID: "1"})}
		code := test.code
		if test.reason != "" {
			code = test.reason.Code()
		}
		if again := m.refused(code, test.reason); again != test.again || m.unknown != test.unknown {
			t.Errorf("%s %v: again %t, unknown %t", test.reason, code, again, m.unknown)
		}
		m.until = time.Now()
		if m.refused(code, test.reason) {
			t.Errorf("%s %v: again after its time", test.reason, code)
		}
		if report := check.Check(); (report.Unknown == 1) != test.unknown || (report.Refused == 1) == test.unknown {
			t.Errorf("%s %v: the checker has %d unknown, %d refused", test.reason, code, report.Unknown, report.Refused)
		}
	}
}
