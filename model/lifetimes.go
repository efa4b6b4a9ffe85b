// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Lifetime is a kind of flows that may be idle for equally long.
type Lifetime string

// Lifetimes of flows that were answered, TCP's by state, and of those that were not.
const (
	LifetimeTCPSynReceived Lifetime = "tcp-syn-received"
	LifetimeTCPEstablished Lifetime = "tcp-established"
	LifetimeTCPFinWait     Lifetime = "tcp-fin-wait"  // one side has closed
	LifetimeTCPTimeWait    Lifetime = "tcp-time-wait" // both have
	LifetimeTCPClosed      Lifetime = "tcp-closed"    // reset
	LifetimeUDP            Lifetime = "udp"
	LifetimeICMP           Lifetime = "icmp"
	LifetimeOther          Lifetime = "other"

	LifetimeTCPUnanswered   Lifetime = "tcp-unanswered"
	LifetimeUDPUnanswered   Lifetime = "udp-unanswered"
	LifetimeICMPUnanswered  Lifetime = "icmp-unanswered"
	LifetimeOtherUnanswered Lifetime = "other-unanswered"
)

// defaultLifetimes: RFC 5382 REQ-5 wants four minutes at least of a connection that
// one side has closed, and two hours and four minutes of one that is established;
// RFC 4787 REQ-5 two minutes of UDP.
var defaultLifetimes = Lifetimes{
	LifetimeTCPSynReceived: time.Minute,
	LifetimeTCPEstablished: 6 * time.Hour,
	LifetimeTCPFinWait:     4 * time.Minute,
	LifetimeTCPTimeWait:    time.Minute,
	LifetimeTCPClosed:      10 * time.Second,
	LifetimeUDP:            3 * time.Minute,
	LifetimeICMP:           30 * time.Second,
	LifetimeOther:          10 * time.Minute,

	LifetimeTCPUnanswered:   time.Minute,
	LifetimeUDPUnanswered:   30 * time.Second,
	LifetimeICMPUnanswered:  30 * time.Second,
	LifetimeOtherUnanswered: time.Minute,
}

// Bounds of a lifetime. Programs note when they saw a packet once a second, and the
// collector comes every few.
const (
	leastLifetime = 5 * time.Second
	mostLifetime  = 30 * 24 * time.Hour
)

// Lifetimes are how long flows may be idle; one that is not there is the default. They
// are written as tcp-fin-wait=4m,udp=3m.
type Lifetimes map[Lifetime]time.Duration

// Of is how long a flow of a kind may be idle.
func (l Lifetimes) Of(kind Lifetime) time.Duration {
	if span, chosen := l[kind]; chosen {
		return span
	}
	return defaultLifetimes[kind]
}

// String writes lifetimes as ParseLifetimes reads them.
func (l Lifetimes) String() string {
	var words []string
	for kind, span := range l {
		words = append(words, fmt.Sprintf("%s=%s", kind, span))
	}
	slices.Sort(words)
	return strings.Join(words, ",")
}

// ParseLifetimes reads lifetimes. An empty text is none.
func ParseLifetimes(text string) (Lifetimes, error) {
	if text == "" {
		return nil, nil
	}
	l := Lifetimes{}
	for _, word := range strings.Split(text, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(word), "=")
		kind := Lifetime(name)
		if _, known := defaultLifetimes[kind]; !known {
			return nil, fmt.Errorf("read lifetimes %q: %q is none: use %s", text, name, lifetimeNames())
		}
		span, err := time.ParseDuration(value)
		if err != nil || span < leastLifetime || span > mostLifetime || span%time.Second != 0 {
			return nil, fmt.Errorf("read lifetimes %q: %s is %q: give whole seconds from %s to %s, as in 4m", text, name, value, leastLifetime, mostLifetime)
		}
		l[kind] = span
	}
	return l, nil
}

func lifetimeNames() string {
	var names []string
	for kind := range defaultLifetimes {
		names = append(names, string(kind))
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// MarshalText writes lifetimes as String does.
func (l Lifetimes) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads them as ParseLifetimes does.
func (l *Lifetimes) UnmarshalText(text []byte) (err error) {
	*l, err = ParseLifetimes(string(text))
	return err
}
