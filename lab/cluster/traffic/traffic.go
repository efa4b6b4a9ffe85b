// SPDX-License-Identifier: Apache-2.0

// Package traffic asks and answers over a network, and counts what was lost:
// while a datapath is replaced, say.
//
// It is not for measuring speed. Its one invariant: whatever was begun is in
// the report, as answered or as failed.
package traffic

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Serve answers on a port of all addresses until ctx ends: over TCP each line
// by one that begins with name, over UDP each datagram likewise.
func Serve(ctx context.Context, port int, name string) error {
	address := fmt.Sprintf(":%d", port)
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	packets, err := net.ListenPacket("udp", address)
	if err != nil {
		return errors.Join(fmt.Errorf("listen: %w", err), listener.Close())
	}
	defer context.AfterFunc(ctx, func() {
		listener.Close()
		packets.Close()
	})()
	go answerPackets(packets, name)
	for {
		conn, err := listener.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept: %w", err)
		case err != nil:
			continue // one that gave up while it waited
		}
		go answerLines(conn, name)
	}
}

// Words of requests. The server closes after wordOnce, so that it is the one
// whose port waits for stragglers (RFC 9293, TIME-WAIT): clients that ask for
// long would run out of ports.
const (
	wordOnce = "once"
	wordStay = "stay"
)

func answerLines(conn net.Conn, name string) {
	defer conn.Close()
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		if _, err := fmt.Fprintf(conn, "%s %s\n", name, lines.Text()); err != nil || lines.Text() == wordOnce {
			return
		}
	}
}

func answerPackets(conn net.PacketConn, name string) {
	buffer := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = conn.WriteTo([]byte(name+" "+string(buffer[:n])), from) // as lost as any datagram
		}
	}
}

// Load is what is asked. Timeout is of a request, and of an answer on a
// connection that stays.
type Load struct {
	Target      string // host:port
	Rate        int    // requests a second, each with a connection of its own
	Connections int    // that stay, from the start to the end
	Every       time.Duration
	Duration    time.Duration
	Timeout     time.Duration
}

// slow is a request that took as long as a first packet that is sent again
// (RFC 6298, section 2), on a machine that was busy or for a packet that was
// lost: Report.Repeated tells.
const slow = 900 * time.Millisecond

// Report counts what became of a Load.
type Report struct {
	Target   string         `json:"target"`
	Seconds  float64        `json:"seconds"`
	Requests int            `json:"requests"`
	Answered int            `json:"answered"`
	Slow     int            `json:"slow"` // answered, but late
	Failed   int            `json:"failed"`
	Errors   map[string]int `json:"errors"`
	By       map[string]int `json:"by"` // who answered

	Connections int            `json:"connections"`
	Broken      int            `json:"broken"` // connections that did not reach the end
	Exchanges   int            `json:"exchanges"`
	LongestWait float64        `json:"longestWaitSeconds"` // for an answer, on a connection that stays
	Breaks      map[string]int `json:"breaks"`

	// Repeated are segments that this side sent again, on all connections: what
	// was lost on the way, or answered late.
	Repeated int `json:"repeated"`
}

func (r *Report) String() string {
	return fmt.Sprintf("%d requests in %.1f s: %d answered (%d late), %d failed %v; %d connections, %d exchanges: %d broken %v, longest wait %.0f ms; %d segments sent again",
		r.Requests, r.Seconds, r.Answered, r.Slow, r.Failed, r.Errors, r.Connections, r.Exchanges, r.Broken, r.Breaks, r.LongestWait*1000, r.Repeated)
}

// OK is whether nothing was lost, and something was asked.
func (r *Report) OK() bool {
	return r.Failed == 0 && r.Broken == 0 && r.Requests == r.Answered && r.Requests+r.Exchanges > 0
}

// run is a Load that goes on.
type run struct {
	Load
	mu     sync.Mutex
	report Report
	wait   sync.WaitGroup
}

// Run asks as the load says until its duration is over or ctx ends, and waits
// for what is on its way.
func (l Load) Run(ctx context.Context) *Report {
	r := &run{Load: l, report: Report{Target: l.Target, Errors: map[string]int{}, By: map[string]int{}, Breaks: map[string]int{}}}
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, l.Duration)
	defer cancel()
	for range l.Connections {
		r.wait.Go(func() { r.stay(ctx) })
	}
	r.requests(ctx, start)
	r.wait.Wait()
	r.report.Seconds = time.Since(start).Seconds()
	return &r.report
}

// requests keeps the rate: who was late makes up for it.
func (r *run) requests(ctx context.Context, start time.Time) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for begun := 0; ; {
		ended := false
		select {
		case <-ctx.Done():
			ended = true
		case <-tick.C:
		}
		// On a busy machine ticks come late, and the last ones not at all: what was due is
		// begun at the end.
		for due := int(min(time.Since(start), r.Duration).Seconds() * float64(r.Rate)); begun < due; begun++ {
			r.wait.Go(r.request)
		}
		if ended {
			return
		}
	}
}

func (r *run) request() {
	start := time.Now()
	by, err := r.ask()
	took := time.Since(start)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Requests++
	if err != nil {
		r.report.Failed++
		r.report.Errors[kindOf(err)]++
		return
	}
	r.report.Answered++
	r.report.By[by]++
	if took >= slow {
		r.report.Slow++
	}
}

func (r *run) ask() (by string, err error) {
	conn, err := net.DialTimeout("tcp", r.Target, r.Timeout)
	if err != nil {
		return "", err
	}
	defer r.end(conn)
	from := bufio.NewReader(conn)
	if by, err = exchange(conn, from, wordOnce, r.Timeout); err != nil {
		return "", err
	}
	if _, err := from.ReadByte(); !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("end of the connection: %w", err)
	}
	return by, nil
}

// end counts what was repeated, and closes.
func (r *run) end(conn net.Conn) {
	n := repeated(conn)
	conn.Close()
	r.mu.Lock()
	r.report.Repeated += n
	r.mu.Unlock()
}

// repeated are the segments of a connection that were sent again (tcp_info of
// linux/tcp.h).
func repeated(conn net.Conn) int {
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	_ = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n = int(info.Total_retrans)
		}
	})
	return n
}

func exchange(conn net.Conn, from *bufio.Reader, word string, timeout time.Duration) (by string, err error) {
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(conn, word); err != nil {
		return "", err
	}
	line, err := from.ReadString('\n')
	if err != nil {
		return "", err
	}
	by, said, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	if said != word {
		return "", fmt.Errorf("answer %q to %q", line, word)
	}
	return by, nil
}

// stay keeps one connection until ctx ends.
func (r *run) stay(ctx context.Context) {
	exchanges, longest, err := r.keep(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Connections++
	r.report.Exchanges += exchanges
	r.report.LongestWait = max(r.report.LongestWait, longest.Seconds())
	if err != nil {
		r.report.Broken++
		r.report.Breaks[kindOf(err)]++
	}
}

func (r *run) keep(ctx context.Context) (exchanges int, longest time.Duration, err error) {
	conn, err := net.DialTimeout("tcp", r.Target, r.Timeout)
	if err != nil {
		return 0, 0, err
	}
	defer r.end(conn)
	from := bufio.NewReader(conn)
	tick := time.NewTicker(r.Every)
	defer tick.Stop()
	server := ""
	for {
		start := time.Now()
		by, err := exchange(conn, from, wordStay, r.Timeout)
		if err != nil {
			return exchanges, longest, err
		}
		if server != "" && by != server {
			return exchanges, longest, fmt.Errorf("%s answers in place of %s", by, server)
		}
		server = by
		exchanges++
		longest = max(longest, time.Since(start))
		select {
		case <-ctx.Done():
			return exchanges, longest, nil
		case <-tick.C:
		}
	}
}

// kindOf names an error without addresses, so that equal ones count as one.
func kindOf(err error) string {
	var op *net.OpError
	var errno syscall.Errno
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) || isTimeout(err):
		if errors.As(err, &op) {
			return op.Op + ": timed out"
		}
		return "timed out"
	case errors.As(err, &errno):
		if errors.As(err, &op) {
			return op.Op + ": " + errno.Error()
		}
		return errno.Error()
	}
	return err.Error()
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
