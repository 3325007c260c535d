// Follows a table, works on each event, and goes on where it stood after any break: see README.md.
//
//	go run consumer.go URL TABLE RESULTS GROUP [COUNT]
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

type event struct {
	Partition uint32          `json:"partition"`
	Offset    uint64          `json:"offset"`
	Payload   json.RawMessage `json:"payload"`
}

var url, table, results, group = os.Args[1], os.Args[2], os.Args[3], os.Args[4]

// mayPass says whether waiting may help.
func mayPass(status int) bool { return status >= 500 || status == 408 || status == 429 }

// post sends until there is an answer. With an idempotency key that stores it once.
func post(path, key string, body any, fine int) {
	text, err := json.Marshal(body)
	if err != nil {
		log.Fatal(err)
	}
	client := http.Client{Timeout: 30 * time.Second}
	for ; ; time.Sleep(500 * time.Millisecond) {
		request, _ := http.NewRequest("POST", url+path, bytes.NewReader(text))
		request.Header.Set("Content-Type", "application/json")
		if key != "" {
			request.Header.Set("Idempotency-Key", strconv.Quote(key))
		}
		answer, err := client.Do(request)
		if err != nil {
			continue
		}
		said, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode < 300 || answer.StatusCode == fine {
			return
		}
		if !mayPass(answer.StatusCode) {
			log.Fatal(string(said))
		}
	}
}

func work(e event) {
	key := fmt.Sprintf("%s/%d/%d", table, e.Partition, e.Offset)
	post("/tables/"+results, key, map[string]any{"payload": map[string]any{"worked_on": e.Payload}}, 0)
}

// follow hands over each event with the cursor behind it, until the stream ends or take has enough. A ping and
// the end have a cursor and no event.
func follow(cursor string, take func(cursor string, e *event) bool) {
	request, _ := http.NewRequest("GET", url+"/tables/"+table, nil)
	request.Header.Set("Accept", "text/event-stream")
	if cursor != "" {
		request.Header.Set("Last-Event-ID", cursor)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return
	}
	defer answer.Body.Close()
	if answer.StatusCode == 410 {
		var problem struct{ NextCursor string `json:"next_cursor"` }
		json.NewDecoder(answer.Body).Decode(&problem)
		take(problem.NextCursor, nil)
		return
	}
	if answer.StatusCode != 200 {
		if !mayPass(answer.StatusCode) && answer.StatusCode != 404 {
			log.Fatal(answer.Status)
		}
		return
	}
	fields := map[string]string{}
	for lines := bufio.NewReader(answer.Body); ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		if name, value, _ := strings.Cut(strings.TrimRight(line, "\r\n"), ":"); name != "" {
			fields[name] = strings.TrimSpace(value)
			continue
		} else if line != "\n" {
			continue // a comment
		}
		if id, isThere := fields["id"]; isThere {
			cursor = id
		}
		var found *event
		if _, isOther := fields["event"]; !isOther && fields["data"] != "" {
			found = &event{}
			if err := json.Unmarshal([]byte(fields["data"]), found); err != nil {
				log.Fatal(err)
			}
		}
		fields = map[string]string{}
		if !take(cursor, found) {
			return
		}
	}
}

func main() {
	left, place := -1, group+".place"
	if len(os.Args) > 5 {
		left, _ = strconv.Atoi(os.Args[5])
	}
	kept, _ := os.ReadFile(place)
	cursor := string(kept)
	for left != 0 {
		follow(cursor, func(behind string, e *event) bool {
			if e != nil {
				work(*e)
				commit := map[string]any{"table": table, "partition": e.Partition, "offset": e.Offset + 1}
				post("/consumers/"+group+"/commit", "", commit, 409)
				left--
			}
			cursor = behind
			if err := os.WriteFile(place+".new", []byte(cursor), 0o644); err != nil {
				log.Fatal(err)
			}
			if err := os.Rename(place+".new", place); err != nil {
				log.Fatal(err)
			}
			return left != 0
		})
		time.Sleep(500 * time.Millisecond)
	}
}
