package carillon_test

import (
	"context"
	"fmt"
	"os/signal"
	"syscall"

	carillon "github.com/carillon-rt/carillon/clients/go"
)

// A program that shows a room, on whichever edge is there, until it is told to stop.
//
//nolint:testableexamples // it needs an edge
func ExampleFollow() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	err := carillon.Follow(ctx, carillon.SessionOptions{
		URLs:     []string{"wss://edge-0.example/v1/ws", "wss://edge-1.example/v1/ws"},
		Token:    func(context.Context) (string, error) { return "eyJ…", nil },
		Name:     "room",
		Channels: []string{"chat.lobby"},
	}, func(event carillon.Event) {
		switch e := event.(type) {
		case carillon.Message:
			fmt.Println(e.GetPublisher(), e.GetJson())
		case carillon.Gap:
			fmt.Println("not shown:", e.From, "to", e.To, e.Reason)
		case carillon.Reset:
			fmt.Println("load the room again up to", e.Position.Offset)
		case carillon.Disconnected:
			fmt.Println("offline:", e.Err, "- again in", e.Next)
		}
	})
	fmt.Println(err)
}

// A program that publishes what must arrive, and gives up on what was refused.
//
//nolint:testableexamples // as above
func ExampleSession_Publish() {
	session, err := carillon.NewSession(carillon.SessionOptions{
		URLs:  []string{"wss://edge.example/v1/ws"},
		Token: func(context.Context) (string, error) { return "eyJ…", nil },
	}, func(carillon.Event) {})
	if err != nil {
		panic(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- session.Run(ctx) }()

	receipt, err := session.Publish(ctx, carillon.Publication{Channel: "chat.lobby", JSON: `{"text":"hello"}`})
	fmt.Println(receipt.Position.Offset, err)

	stop()
	<-ended
}

// A program that shows who is in a room, and who comes and goes.
//
//nolint:testableexamples // as above
func ExampleMemberList() {
	list := carillon.NewMemberList("chat.lobby")
	err := carillon.Follow(context.Background(), carillon.SessionOptions{
		URLs:     []string{"wss://edge.example/v1/ws"},
		Token:    func(context.Context) (string, error) { return "eyJ…", nil },
		Channels: []string{"chat.lobby"},
		Presence: []string{"chat.lobby"},
		Info:     `{"name":"Alice"}`,
	}, func(event carillon.Event) {
		joined, left := list.Apply(event)
		for _, m := range joined {
			fmt.Println("+", m.UserID, m.Info)
		}
		for _, user := range left {
			fmt.Println("-", user)
		}
		if !list.Current() {
			fmt.Println("as it was when there was a connection")
		}
	})
	fmt.Println(err)
}
