package beacon

import (
	"math/rand/v2"
	"slices"
	"time"
)

const (
	// forget is how long a node that is not heard again counts as known. It is long, because in a full
	// class suppression lets a node speak about twice an hour only, and whom we forget has to speak again.
	forget = 4 * time.Hour

	maxNodes  = 256 // nodes remembered in a cell
	maxAsked  = 512 // unknown tags remembered in a cell
	maxOthers = 64  // other digests remembered in a cell
	helloWait = 300 * time.Millisecond

	minBackoff = 4 * time.Second
	maxAnswers = 4096 * time.Second // the longest wait before answering the same thing again

	// sameTime is how far apart the two packets of one beacon sent over both families may come.
	sameTime = 2 * time.Second

	// perNode spreads the answers of a cell to one that does not know us: with n known nodes over n times this.
	perNode = 2 * time.Second
)

// Verdict says what a heard beacon was to a Cell.
type Verdict int

const (
	FromSelf  Verdict = iota // our own, come back: ignored
	FromKnown                // from a run of a node that we know
	FromNew                  // from a node, or a run of it, not heard for four hours
)

// Cell is the memory of one node about one link: whom it hears, who hears it, and when to speak.
//
// A beacon is inconsistent, and resets the Trickle timer, when it comes from a node unknown here that does not say it
// hears us, or when its digest differs from ours. Differences that stay are news only now and then: after 4 s, 8 s,
// up to 4096 s while no new digest is heard; in between such a beacon counts as consistent. All the rest is consistent.
//
// Suppression alone could keep two nodes from hearing each other. So every beacon lists whom its sender hears, and
// a transmission is owed by a node that reads in a beacon that its sender does not hear it, or that others hear
// somebody whom it does not (its own list then makes that one speak). Both are repeated at growing distances, 4 s to 4096 s.
//
// Cell is pure, like Trickle: no clock, no I/O, one owner.
type Cell struct {
	trickle *Trickle
	rand    *rand.Rand
	imax    time.Duration
	nodes   map[string]*node
	tags    map[Tag]struct{} // of nodes
	asked   map[Tag]*backoff // tags that others hear and we do not
	ours    [8]byte          // our digest at the last comparison
	others  map[[8]byte]bool // digests compared with ours
	differ  backoff          // when a difference with one of others is news again
	hello   bool             // nothing sent yet since Hello
	due     bool             // a transmission fell due outside of Tick
}

// node is what a Cell knows of one node.
type node struct {
	tag  Tag
	last time.Time // last heard
	near time.Time // last heard by the family that we send, from an address of our networks; zero: never
	far  time.Time // last heard otherwise; zero: never
	owe  backoff   // when to answer again that it does not hear us
}

// NewCell returns a Cell that says hello at once and knows nobody.
func NewCell(now time.Time, cfg TrickleConfig) *Cell {
	c := &Cell{
		trickle: NewTrickle(now, cfg), nodes: make(map[string]*node),
		tags: make(map[Tag]struct{}), asked: make(map[Tag]*backoff), others: make(map[[8]byte]bool),
	}
	c.rand, c.imax = c.trickle.cfg.Rand, c.trickle.cfg.Imax
	c.Hello(now)
	return c
}

// Tick lets time pass. It says whether to send a beacon now, and when to call again at the latest.
// Call it after every other input, too.
func (c *Cell) Tick(now time.Time) (transmit bool, next time.Time) {
	transmit, next = c.trickle.Step(now, Tick)
	transmit, c.due = transmit || c.due, false
	return transmit, next
}

// News says that our own content changed, or that somebody should be found soon: the timer is reset.
func (c *Cell) News(now time.Time) { c.step(now, Inconsistent) }

func (c *Cell) step(now time.Time, e Event) {
	transmit, _ := c.trickle.Step(now, e)
	c.due = c.due || transmit
}

// Hello makes the cell send within 0.3 s, and quickly for a while: the link came up, or our address on it changed.
// The next beacon should go out by every family there is.
func (c *Cell) Hello(now time.Time) {
	c.hello = true
	c.trickle.Owe(now, helloWait)
}

// Hear takes a beacon b heard at now; self is what we would send. near tells that it came by the family that
// we send on this link, from an address that belongs to our networks there.
func (c *Cell) Hear(now time.Time, self, b *Beacon, near bool) Verdict {
	selfTag, tag := self.Tag(), b.Tag()
	if tag == selfTag {
		return FromSelf
	}
	n, known := c.note(now, string(b.Node), tag)
	n.hear(now, near)
	says := b.Heard.Says(selfTag)
	event := Consistent
	if !known && says != Present || c.differs(now, self.Digest, b.Digest) {
		event = Inconsistent
	}
	c.step(now, event)
	if says == Present {
		n.owe = backoff{}
	}
	deaf := says == Absent && n.owe.try(now, maxAnswers)
	if asks := c.ask(now, selfTag, b.Heard.Tags); asks || deaf {
		c.trickle.Owe(now, min(c.imax, time.Duration(len(c.nodes))*perNode))
	}
	if known {
		return FromKnown
	}
	return FromNew
}

// Compose returns self as it goes out on this link: with a list of whom we hear. Call it once for each transmission.
func (c *Cell) Compose(now time.Time, self Beacon) Beacon {
	c.sweep(now)
	c.hello = false
	self.Heard = c.list()
	return self
}

// BothFamilies says that the next beacon should go out over IPv4 and IPv6: it is the first one, or
// there is somebody whom the family we prefer may not reach.
func (c *Cell) BothFamilies(now time.Time) bool {
	if c.hello {
		return true
	}
	for _, n := range c.nodes {
		if n.far.Sub(n.near) > sameTime && now.Sub(n.far) < 2*c.imax {
			return true
		}
	}
	return false
}

// Len returns the number of nodes known on the link.
func (c *Cell) Len() int { return len(c.nodes) }

// note finds or makes the memory of a node; known is false when this run of it is new to us.
func (c *Cell) note(now time.Time, id string, tag Tag) (n *node, known bool) {
	n = c.nodes[id]
	if n != nil && n.tag == tag && now.Sub(n.last) < forget {
		return n, true
	}
	if n == nil && len(c.nodes) >= maxNodes {
		c.evict()
	}
	if n != nil {
		c.drop(id)
	}
	n = &node{tag: tag}
	c.nodes[id], c.tags[tag] = n, struct{}{}
	delete(c.asked, tag)
	return n, false
}

func (c *Cell) drop(id string) {
	delete(c.tags, c.nodes[id].tag)
	delete(c.nodes, id)
}

// evict makes room: it drops the node not heard for the longest time.
func (c *Cell) evict() {
	oldest := ""
	for id, n := range c.nodes {
		if oldest == "" || n.last.Before(c.nodes[oldest].last) {
			oldest = id
		}
	}
	c.drop(oldest)
}

func (c *Cell) sweep(now time.Time) {
	for id, n := range c.nodes {
		if now.Sub(n.last) >= forget {
			c.drop(id)
		}
	}
	for tag, b := range c.asked {
		if now.Sub(b.next) > forget {
			delete(c.asked, tag)
		}
	}
}

// list returns all tags, or when they are too many a random stretch of them.
func (c *Cell) list() Heard {
	tags := make([]Tag, 0, len(c.tags))
	for t := range c.tags {
		tags = append(tags, t)
	}
	slices.Sort(tags)
	h := Heard{From: 0, To: ^Tag(0), Tags: tags}
	if len(tags) <= MaxHeard {
		return h
	}
	begin := c.rand.IntN(len(tags) - MaxHeard + 1)
	end := begin + MaxHeard
	h.Tags = tags[begin:end:end]
	// The stretch says something about the gaps at its ends, too: all tags up to its neighbours.
	if begin > 0 {
		h.From = tags[begin-1] + 1
	}
	if end < len(tags) {
		h.To = tags[end] - 1
	}
	return h
}

// ask says whether others hear somebody unknown to us for whom it is time to ask.
func (c *Cell) ask(now time.Time, self Tag, tags []Tag) bool {
	due := false
	for _, t := range tags {
		if _, known := c.tags[t]; known || t == self {
			continue
		}
		b := c.asked[t]
		if b == nil && len(c.asked) < maxAsked {
			b = new(backoff)
			c.asked[t] = b
		}
		due = b != nil && b.try(now, maxAnswers) || due
	}
	return due
}

func (n *node) hear(now time.Time, near bool) {
	n.last = now
	if near {
		n.near = now
	} else {
		n.far = now
	}
}

// differs says whether a digest is news: unequal to ours and not seen since ours is what it is, or long ago.
func (c *Cell) differs(now time.Time, ours, theirs [8]byte) bool {
	if ours != c.ours {
		c.ours, c.differ = ours, backoff{}
		clear(c.others)
	}
	if theirs == ours {
		return false
	}
	if !c.others[theirs] && len(c.others) < maxOthers {
		c.others[theirs], c.differ = true, backoff{}
	}
	return c.differ.try(now, maxAnswers)
}

// backoff lets a thing happen at once, then again after waits that grow from minBackoff. The zero value is ready.
type backoff struct {
	next time.Time
	wait time.Duration
}

func (b *backoff) try(now time.Time, most time.Duration) bool {
	if now.Before(b.next) {
		return false
	}
	b.wait = min(max(2*b.wait, minBackoff), most)
	b.next = now.Add(b.wait)
	return true
}
