// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/weirnet/weir/replay"
)

// errEnough ends a replay that has shown as many packets as were asked for.
var errEnough = errors.New("enough")

// replayPrinter prints outcomes as they come, or the connections that they make.
type replayPrinter struct {
	json, several bool
	byConnection  bool
	follow        bool // tell as packets come
	most          int  // how many packets to show; 0: all
	begun         bool // the datapath is there: there is a summary at the end
	headed        bool
	out           *bufio.Writer
	line          []byte
	filter        *replay.Filter // nil: all is shown
	shown         int
	wanted        map[*replay.Connection]bool // of which a packet is shown; nil: all
	connections   replay.Connections
	ended         map[*replay.Connection]bool // that were told at their end
	summary       replay.Summary
	annotator     *replay.Annotator
	annotated     *bufio.Writer
}

func (o *replayRun) printer(out io.Writer, captures *replay.Captures) *replayPrinter {
	p := &replayPrinter{
		json: o.output == "json", several: len(captures.Paths) > 1, byConnection: o.by == byConnection,
		follow: captures.Streams(), most: o.filter.count, out: bufio.NewWriterSize(out, 1<<16),
		ended: map[*replay.Connection]bool{},
	}
	return p
}

// idle brings out what was told, before more is waited for.
func (p *replayPrinter) idle() {
	if !p.follow {
		return
	}
	// Both writers keep their error, and tell it at the end.
	_ = p.out.Flush()
	if p.annotated != nil {
		_ = p.annotated.Flush()
	}
}

func (p *replayPrinter) tell(o *replay.Outcome) error {
	p.connections.Forget = p.follow
	conn := p.connections.Add(o)
	p.summary.Add(o)
	if p.filter != nil && !p.filter.Match(o) {
		return nil
	}
	p.shown++
	if err := p.show(o, conn); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	if p.annotator != nil {
		if err := p.annotator.Write(o); err != nil {
			return err
		}
	}
	if p.shown == p.most {
		return errEnough
	}
	return nil
}

func (p *replayPrinter) show(o *replay.Outcome, conn *replay.Connection) error {
	switch {
	case p.byConnection:
		return p.meet(o, conn)
	case p.json:
		p.line = append(replay.AppendJSON(p.line[:0], o, p.several), '\n')
	default:
		p.line = replay.AppendText(p.head(replay.TextHeader), o, verdictColours())
	}
	_, err := p.out.Write(p.line)
	return err
}

// head begins a line, with that of the table before the first one.
func (p *replayPrinter) head(header string) []byte {
	if p.headed {
		return p.line[:0]
	}
	p.headed = true
	return append(p.line[:0], header...)
}

// Events of connections, as they are told while packets come.
const (
	eventNew  = "new"
	eventDrop = "drop"
	eventEnd  = "end"
)

// meet keeps that a connection is shown, and tells what is new about it.
func (p *replayPrinter) meet(o *replay.Outcome, conn *replay.Connection) error {
	if conn == nil {
		return nil
	}
	if p.filter != nil {
		if p.wanted == nil {
			p.wanted = map[*replay.Connection]bool{}
		}
		p.wanted[conn] = true
	}
	switch {
	case !p.follow:
		return nil
	case conn.Told == o.Number:
		return p.connection(conn, eventDrop)
	case conn.Packets() == 1:
		return p.connection(conn, eventNew)
	case conn.Ended() && !p.ended[conn]:
		p.ended[conn] = true
		return p.connection(conn, eventEnd)
	}
	return nil
}

// connection prints a connection; the event is empty in a table.
func (p *replayPrinter) connection(c *replay.Connection, event string) (err error) {
	if p.json {
		if p.line, err = replay.AppendConnectionJSON(p.line[:0], c, event); err != nil {
			return err
		}
		p.line = append(p.line, '\n')
	} else {
		header, before := replay.ConnectionsHeader, ""
		if event != "" {
			header, before = "EVENT "+header, fmt.Sprintf("%-6s", event)
		}
		p.line = replay.AppendConnection(append(p.head(header), before...), c, verdictColours())
	}
	_, err = p.out.Write(p.line)
	return err
}

// end prints the connections, and the summary with what could not be read.
func (p *replayPrinter) end(problem error) error {
	if p.byConnection {
		if err := p.table(); err != nil {
			return fmt.Errorf("write results: %w", err)
		}
	}
	p.summary.Finish()
	if p.filter != nil {
		p.summary.Shown = &p.shown
	}
	if problem != nil {
		p.summary.Problems = append(p.summary.Problems, problem.Error())
	}
	if err := p.summarize(); err != nil {
		return err
	}
	if p.summary.Broken > 0 {
		return &exitError{code: exitFailed}
	}
	return nil
}

// table prints the connections, or as they come those that have not ended.
func (p *replayPrinter) table() error {
	event := ""
	if p.follow {
		event = eventEnd
	}
	for _, c := range p.connections.List {
		p.summary.Connections++
		if c.Dead() {
			p.summary.Dead++
		}
		if p.filter != nil && !p.wanted[c] || p.ended[c] {
			continue
		}
		if err := p.connection(c, event); err != nil {
			return err
		}
	}
	if p.connections.More > 0 && !p.json {
		fmt.Fprintf(p.out, "and %d packets of other connections\n", p.connections.More)
	}
	return nil
}

func (p *replayPrinter) summarize() error {
	if !p.json {
		if p.headed {
			fmt.Fprintln(p.out)
		}
		return p.summary.Text(p.out)
	}
	err := json.NewEncoder(p.out).Encode(map[string]*replay.Summary{"summary": &p.summary})
	if err != nil {
		return fmt.Errorf("write summary: %w", err)
	}
	return nil
}

// verdictColours says how a verdict is painted: only on a terminal.
func verdictColours() func(replay.Verdict) (before, after string) {
	if !terminal(os.Stdout) || os.Getenv("NO_COLOR") != "" {
		return func(replay.Verdict) (string, string) { return "", "" }
	}
	return func(v replay.Verdict) (string, string) {
		colours := map[replay.Verdict]string{replay.Forward: "32", replay.Drop: "31", replay.Refused: "33", replay.Broken: "31"}
		return "\x1b[" + colours[v] + "m", "\x1b[0m"
	}
}
