package p2p

import (
	"encoding/json"
	"log/slog"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"satchel/announce"
)

// Clock reads a machine's clocks. Wall may be as wrong as it likes: it shows, and decides nothing about installing.
// Since goes on counting while the machine sleeps, from a start that Boot names.
type Clock func() (wall time.Time, boot string, since time.Duration)

// machineClock is Linux's.
func machineClock() (wall time.Time, boot string, since time.Duration) {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) == nil {
		since = time.Duration(t.Nano())
	}
	return time.Now(), strings.TrimSpace(string(id)), since
}

// counter counts the seconds that a home has seen pass, over restarts: with it a timestamp grows old also where no
// clock is right. What passes while the machine is off is not seen. Owned by the node's goroutine.
type counter struct {
	clock Clock
	base  int64 // the count at the start of this boot
	saved int64 // the count that state.db has
}

// counted is the counter in state.db.
type counted struct {
	Boot  string `json:"boot"`
	Since int64  `json:"since"` // seconds
	Up    int64  `json:"up"`
}

const saveCountEvery = 600 // seconds that a power cut may take from the count

func openCounter(db *state, clock Clock) *counter {
	if clock == nil {
		clock = machineClock
	}
	c := &counter{clock: clock}
	_, boot, since := clock()
	at := int64(since / time.Second)
	var old counted
	if text, ok := db.get("meta", "count"); ok && json.Unmarshal(text, &old) == nil {
		c.base = old.Up - at
		if old.Boot == boot && old.Since <= at {
			c.base = old.Up - old.Since
		}
	} else {
		c.base = -at
	}
	c.saved = old.Up
	return c
}

// now is what this machine believes of time.
func (c *counter) now() announce.Clock {
	wall, _, since := c.clock()
	return announce.Clock{Wall: wall.Unix(), Up: c.base + int64(since/time.Second)}
}

// save keeps the count when enough of it would be lost.
func (c *counter) save(db *state, least int64) error {
	_, boot, since := c.clock()
	at := int64(since / time.Second)
	if c.base+at < c.saved+least {
		return nil
	}
	c.saved = c.base + at
	return db.putJSON("meta", "count", counted{boot, at, c.saved})
}

func (n *Node) keepCount() {
	if err := n.count.save(n.db, saveCountEvery); err != nil {
		n.log.Warn("keeping the count of seconds", slog.Any("err", err))
	}
}
