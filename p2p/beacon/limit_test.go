package beacon_test

import (
	"net/netip"
	"testing"
	"time"

	"satchel/p2p/beacon"
)

func addr(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
}

func TestLimiterOneLoudSource(t *testing.T) {
	l := beacon.NewLimiter(epoch)
	loud, quiet := 0, 0
	for i := range 10_000 { // ten seconds, a packet each millisecond from one, ten in all from another
		now := epoch.Add(time.Duration(i) * time.Millisecond)
		if l.Allow(now, addr(1)) {
			loud++
		}
		if i%1000 == 0 && l.Allow(now, addr(2)) {
			quiet++
		}
	}
	if loud < 200 || loud > 260 {
		t.Errorf("%d packets of the loud source looked at in 10 s", loud)
	}
	if quiet != 10 {
		t.Errorf("%d of 10 packets of the quiet source looked at", quiet)
	}
}

func TestLimiterManySources(t *testing.T) {
	l := beacon.NewLimiter(epoch)
	looked := 0
	for i := range 100_000 { // ten seconds, each packet from somebody else
		if l.Allow(epoch.Add(time.Duration(i)*100*time.Microsecond), addr(i)) {
			looked++
		}
		if l.Sources() > 1024 {
			t.Fatalf("%d sources remembered", l.Sources())
		}
	}
	if looked > 2750+1 {
		t.Errorf("%d packets looked at in 10 s", looked)
	}
}
