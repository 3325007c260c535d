// Sends events with the SDK for Go, in both modes: sender URL EVENTS
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"

	cloudevents "github.com/cloudevents/sdk-go/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
)

func main() {
	text, err := os.ReadFile(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	var events []cloudevents.Event
	if err := json.Unmarshal(text, &events); err != nil {
		log.Fatal(err)
	}
	client, err := cloudevents.NewClientHTTP()
	if err != nil {
		log.Fatal(err)
	}
	target := cloudevents.ContextWithTarget(context.Background(), os.Args[1])
	for _, event := range events {
		for _, mode := range []context.Context{binding.WithForceBinary(target), binding.WithForceStructured(target)} {
			if result := client.Send(mode, event); !cloudevents.IsACK(result) {
				log.Fatal(result)
			}
		}
	}
}
