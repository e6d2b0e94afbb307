package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/chaos/fleet"
	"github.com/carillon-rt/carillon/services/internal/lifecycle"
)

// everyChannel is what was published to.
func (l *Load) everyChannel() []string {
	all := slices.Concat(l.options.Channels, l.options.Purged, l.options.Chained)
	for _, c := range l.clients {
		all = append(all, fleet.Inbox+"."+c.user)
	}
	return all
}

const (
	// headInterval is how often AwaitHeads looks.
	headInterval = 200 * time.Millisecond
	// historyRetries are those of one page.
	historyRetries = 10
	pageMessages   = 1000
)

// AwaitHeads waits until every client has told that it has everything; else the error
// names some that have not. Nothing may be published meanwhile.
func (l *Load) AwaitHeads(ctx context.Context) error {
	heads := map[string]*publishv1.PublishResponse{}
	for _, channel := range l.everyChannel() {
		for heads[channel] == nil {
			if ctx.Err() != nil {
				return fmt.Errorf("the head of %s cannot be read: %w", channel, ctx.Err())
			}
			heads[channel] = l.headOf(ctx, channel)
		}
	}
	tick := time.NewTicker(headInterval)
	defer tick.Stop()
	for {
		behind := l.behind(heads)
		if len(behind) == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d subscriptions are behind, for example %s", len(behind), strings.Join(behind[:min(3, len(behind))], "; "))
		}
	}
}

// headOf returns where the last message of a channel is that everybody gets: one with a ttl
// passes by whoever comes later. Nil if that cannot be told.
func (l *Load) headOf(ctx context.Context, channel string) *publishv1.PublishResponse {
	page, err := call(ctx, l.backend, l.backend.history.ListMessages, &publishv1.ListMessagesRequest{
		Target: &publishv1.ListMessagesRequest_Channel{Channel: channel}, Limit: pageMessages, NewestFirst: true,
	})
	if err != nil {
		return nil
	}
	head := &publishv1.PublishResponse{Epoch: page.GetEpoch()}
	for _, m := range page.GetMessages() {
		if m.GetTtl() == nil {
			head.Offset = m.GetOffset()
			break
		}
	}
	return head
}

// behind names the subscriptions that have not got what their channel has.
func (l *Load) behind(heads map[string]*publishv1.PublishResponse) []string {
	var behind []string
	for _, c := range l.clients {
		positions := c.positions()
		for _, channel := range append([]string{fleet.Inbox + "." + c.user}, c.channels...) {
			head, at := heads[channel], positions[channel]
			if head.GetOffset() > 0 && (at.Epoch != head.GetEpoch() || at.Offset < head.GetOffset()) {
				behind = append(behind, fmt.Sprintf("%s in %s at %s/%d, the head is at %s/%d",
					c.user, channel, at.Epoch, at.Offset, head.GetEpoch(), head.GetOffset()))
			}
		}
	}
	return behind
}

// Record tells the checker what the channels hold in the end.
func (l *Load) Record(ctx context.Context) error {
	var errs []error
	for _, channel := range l.everyChannel() {
		if err := l.record(ctx, channel); err != nil {
			errs = append(errs, fmt.Errorf("the history of %s: %w", channel, err))
		}
	}
	return errors.Join(errs...)
}

func (l *Load) record(ctx context.Context, channel string) error {
	request := &publishv1.ListMessagesRequest{Target: &publishv1.ListMessagesRequest_Channel{Channel: channel}, Limit: pageMessages}
	chained := slices.Contains(l.options.Chained, channel)
	last := uint64(0)
	for {
		page, err := l.page(ctx, request)
		if err != nil {
			return err
		}
		for _, m := range page.GetMessages() {
			if m.GetOffset() <= last {
				l.problem(fmt.Errorf("the history of %s has %d after %d", channel, m.GetOffset(), last))
			}
			if chained {
				l.checkLink(channel, last, m)
			}
			last = m.GetOffset()
			fmt.Fprintln(l.options.History, channel, page.GetEpoch(), m.GetOffset(), m.GetTime().AsTime().Format(time.TimeOnly), m.GetPublisher(), m.GetMessageId())
			l.options.Check.Stored(channel, page.GetEpoch(), m.GetOffset(), m.GetPublisher(), m.GetMessageId(), contentOf(m.GetJson()))
		}
		if !page.GetMore() {
			l.options.Check.History(channel, page.GetEpoch(), 0)
			return nil
		}
		if len(page.GetMessages()) == 0 {
			return errors.New("an empty page says that there is more")
		}
		request.After = &publishv1.Position{Epoch: page.GetEpoch(), Offset: last}
	}
}

// checkLink wants that a message of a chain follows the one that its publisher
// expected.
func (l *Load) checkLink(channel string, last uint64, m *publishv1.StoredMessage) {
	var content struct {
		After uint64 `json:"after"`
	}
	if err := json.Unmarshal([]byte(m.GetJson()), &content); err != nil || content.After != last {
		l.problem(fmt.Errorf("in %s message %q at %d was to follow %d and follows %d: %v", channel, m.GetMessageId(), m.GetOffset(), content.After, last, err)) //nolint:errorlint // often there is none
	}
}

func (l *Load) page(ctx context.Context, request *publishv1.ListMessagesRequest) (page *publishv1.ListMessagesResponse, err error) {
	for range historyRetries {
		page, err = call(ctx, l.backend, l.backend.history.ListMessages, request)
		if err == nil || !lifecycle.Pause(ctx, time.Second) {
			break
		}
	}
	return page, err
}
