package edge_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// moody is a Broker that fails, tells of another epoch, is behind or slow, when told to.
type moody struct {
	edge.Broker
	failures atomic.Int32
	replaced atomic.Bool
	silent   atomic.Pointer[string] // a namespace whose store does not answer
	behind   atomic.Int32           // so many answers of Lasts come from a replica without messages
	slow     atomic.Int64           // the time.Duration that a Read takes
	pages    atomic.Int32           // whole pages that were read
	lasts    atomic.Int32           // answers of Lasts
	damaged  atomic.Uint64          // what lies after this offset cannot be decoded; 0: all can
	hooks    atomic.Pointer[hooks]
}

// hooks are called where they are not nil.
type hooks struct {
	publish  func(message.Publication) error // before a Publish, which fails with its error
	read     func(message.Page)              // with what a whole page has read
	listened func(channel.Name)              // when the head is known
	bounds   func(channel.Name)              // before Bounds is answered
}

func (m *moody) hook() hooks {
	if h := m.hooks.Load(); h != nil {
		return *h
	}
	return hooks{}
}

func (m *moody) Publish(ctx context.Context, p message.Publication) (message.Receipt, error) {
	if publish := m.hook().publish; publish != nil {
		if err := publish(p); err != nil {
			return message.Receipt{}, err
		}
	}
	return m.Broker.Publish(ctx, p)
}

func (m *moody) Listen(ctx context.Context, name channel.Name) (message.Bounds, error) {
	bounds, err := m.Broker.Listen(ctx, name)
	if listened := m.hook().listened; listened != nil {
		listened(name)
	}
	return bounds, err
}

func (m *moody) Lasts(ctx context.Context, names []channel.Name, after, upTo message.Offset) (message.Lasts, error) {
	if names[0].Namespace() == "chat" && m.behind.Add(-1) >= 0 {
		return message.Lasts{}, nil
	}
	defer m.lasts.Add(1)
	return m.Broker.Lasts(ctx, names, after, upTo)
}

func (m *moody) Read(ctx context.Context, name channel.Name, after message.Offset, limit int) (message.Page, error) {
	if limit > 32 && name.Namespace() == "chat" { // fewer are read to see what follows
		m.pages.Add(1)
	}
	page, err := m.Broker.Read(ctx, name, after, limit)
	if damaged := m.damaged.Load(); damaged > 0 {
		page.Messages = slices.DeleteFunc(page.Messages, func(m *message.Message) bool { return uint64(m.Offset) > damaged })
	}
	if read := m.hook().read; read != nil && limit > 32 {
		read(page)
	}
	if slow := time.Duration(m.slow.Load()); slow > 0 {
		<-time.After(slow)
	}
	return page, err
}

func (m *moody) Bounds(ctx context.Context, name channel.Name) (message.Bounds, error) {
	if name.Namespace() != "user" && m.failures.Add(-1) >= 0 { // the inbox of a new connection is still being read
		return message.Bounds{}, fault.Unavailable(fault.StoreUnavailable, nil, "no answer")
	}
	if silent := m.silent.Load(); silent != nil && name.Namespace() == *silent {
		<-ctx.Done()
		return message.Bounds{}, fault.Unavailable(fault.StoreUnavailable, ctx.Err(), "no answer")
	}
	if bounds := m.hook().bounds; bounds != nil {
		bounds(name)
	}
	bounds, err := m.Broker.Bounds(ctx, name)
	if m.replaced.Load() && name.Namespace() == "chat" {
		bounds.Epochs = []message.EpochStart{{Epoch: "new", First: 1}}
	}
	return bounds, err
}

func startMoody(t *testing.T, change ...func(*edge.Options)) (*world, *moody) {
	t.Helper()
	broker := &moody{}
	w := start(t, func(o *edge.Options) {
		for _, f := range change {
			f(o)
		}
		open := o.OpenBroker
		o.OpenBroker = func(r edge.Receiver) (edge.Broker, error) {
			var err error
			broker.Broker, err = open(r)
			return broker, err
		}
	})
	return w, broker
}
