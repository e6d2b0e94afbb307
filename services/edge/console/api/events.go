package api

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

const (
	// keptEvents are kept of those that close connections, and of all others: a storm of
	// the ones does not carry the others away.
	keptEvents = 250
	// So many are taken in at once, and then a second.
	eventBurst, eventRate = 100, 50
	// maxMessageBytes bounds the text of one.
	maxMessageBytes = 300
	// maxListed and defaultListed bound a list; partListed one that is part of an answer.
	maxListed, defaultListed, partListed = 500, 100, 50
)

// kindSent is of a message that somebody has sent through the console.
const kindSent edge.IncidentKind = "sent"

// event is something that went wrong (docs/console.md).
type event struct {
	ID         uint64            `json:"id"`
	At         int64             `json:"at"`
	Kind       edge.IncidentKind `json:"kind"`
	Reason     fault.Reason      `json:"reason,omitempty"`
	Command    string            `json:"command,omitempty"`
	Channel    channel.Name      `json:"channel,omitempty"`
	User       channel.User      `json:"user,omitempty"`
	Connection string            `json:"connectionId,omitempty"`
	Address    string            `json:"address,omitempty"`
	Rule       string            `json:"rule,omitempty"`
	Message    string            `json:"message,omitempty"`
	TraceID    string            `json:"traceId,omitempty"`
	Policy     string            `json:"policy,omitempty"`
	Code       int               `json:"code,omitempty"`
	By         string            `json:"by,omitempty"`
	Seconds    *float64          `json:"seconds,omitempty"`
	Caller     string            `json:"caller,omitempty"`
	Offset     uint64            `json:"offset,omitempty"`
}

func eventOf(i edge.Incident) event {
	e := event{
		Kind: i.Kind, Reason: i.Reason, Command: i.Command, Channel: i.Channel, User: i.User, Connection: i.Connection,
		Address: i.Address, Rule: i.Rule, Message: strings.ToValidUTF8(i.Message[:min(len(i.Message), maxMessageBytes)], ""),
		TraceID: i.TraceID, Policy: i.Policy, Code: i.Code, By: i.By,
	}
	if i.Lasted > 0 {
		seconds := i.Lasted.Round(time.Millisecond).Seconds()
		e.Seconds = &seconds
	}
	return e
}

// events are the latest.
type events struct {
	limiter *rate.Limiter

	mu     sync.Mutex
	last   uint64 // id
	lost   uint64
	closes ring
	others ring
}

// ring holds the last events, in order.
type ring struct {
	all  []event
	next int // where the oldest stands once it is full
}

func newEvents() *events { return &events{limiter: rate.NewLimiter(eventRate, eventBurst)} }

// add takes in an event, unless there are too many.
func (e *events) add(one event, now time.Time) {
	taken := e.limiter.AllowN(now, 1)
	e.mu.Lock()
	defer e.mu.Unlock()
	if !taken {
		e.lost++
		return
	}
	e.last++
	one.ID, one.At = e.last, now.UnixMilli()
	if one.Kind == edge.Closed {
		e.closes.add(one)
	} else {
		e.others.add(one)
	}
}

func (r *ring) add(one event) {
	if len(r.all) < keptEvents {
		r.all = append(r.all, one)
		return
	}
	r.all[r.next] = one
	r.next = (r.next + 1) % keptEvents
}

// eventList is an answer.
type eventList struct {
	Events []event `json:"events"`
	Lost   uint64  `json:"lost"`
}

// after are the events after an id that are wanted, the oldest first, but no more than the
// latest so many.
func (e *events) after(id uint64, limit int, wanted func(*event) bool) eventList {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := eventList{Events: []event{}, Lost: e.lost}
	if e.last <= id {
		return list
	}
	for _, r := range []*ring{&e.closes, &e.others} {
		for i := range r.all {
			if one := &r.all[i]; one.ID > id && wanted(one) {
				list.Events = append(list.Events, *one)
			}
		}
	}
	slices.SortFunc(list.Events, func(a, b event) int { return int(a.ID) - int(b.ID) })
	list.Events = list.Events[max(0, len(list.Events)-limit):]
	return list
}

// newest are those events, the latest first.
func (e *events) newest(id uint64, limit int, wanted func(*event) bool) eventList {
	list := e.after(id, limit, wanted)
	slices.Reverse(list.Events)
	return list
}

func anyEvent(*event) bool { return true }

// pastEvents answers events.
func (a *API) pastEvents(r *request) (any, error) {
	limit, err := r.number("limit", defaultListed, 1, maxListed)
	if err != nil {
		return nil, err
	}
	after, err := r.after()
	if err != nil {
		return nil, err
	}
	query := r.URL.Query()
	kind, user, name := query.Get("kind"), query.Get("user"), query.Get("channel")
	return a.events.newest(after, limit, func(e *event) bool {
		return (kind == "" || string(e.Kind) == kind) && (user == "" || string(e.User) == user) && (name == "" || string(e.Channel) == name)
	}), nil
}

// after is the id of an event that the one who asks has seen; 0: none.
func (r *request) after() (uint64, error) {
	text := r.URL.Query().Get("after")
	if text == "" {
		return 0, nil
	}
	id, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		return 0, fault.New(fault.FieldInvalid, "after", "after must be the id of an event")
	}
	return id, nil
}

// number reads a parameter that is a number between two others.
func (r *request) number(name string, otherwise, least, most int) (int, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		return 0, fault.New(fault.FieldInvalid, name, "%s must be within %d and %d", name, least, most)
	}
	return n, nil
}
