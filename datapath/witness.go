// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// Witness passes frames through the programs, and looks at all that they leave
// besides the frame: the place that they note, the events that they tell, the
// counters that they raise. Each of these has to be what the note says.
//
// It is for one goroutine, like a Runner, and reads the events: nobody else gets
// them meanwhile.
type Witness struct {
	d       *Datapath
	runners map[model.Hook]*Runner
	counts  map[int]bpf.ContainerCounter // as they have to be, by index
	raised  map[int]bool                 // those that have been since they were looked at
	// audits may have counted an egress too, which a note of the ingress hides.
	audits bpf.ContainerCounter
	told   []bpf.ContainerEvent // of the last run
	looked []Looked             // the same
	due    int                  // how many it had to tell, at least
	places map[noted]string     // what is wrong with them, as far as looked at
	dirt   *dirt
	flows  *FlowReader          // nil before it is needed
	made   map[flowKey]bool     // those under which entries were ever stored
	met    map[flowKey]*meeting // as the last packet of the flow left them
	epoch  uint32               // of which the other halves are soiled
	// foreign: the programs are another build, of another source.
	foreign bool
}

// noted is a decision and its place.
type noted struct {
	file   string
	line   int
	action model.Action
	reason model.Reason
}

// Looked is whom an event tells of, and what a flow was looked up for.
type Looked struct {
	Tuple model.Tuple
	Flow  FlowLookup
}

// Witness begins to count. The counters have to be as in a new datapath.
func (d *Datapath) Witness() *Witness {
	ours := func(given, embedded []byte) bool { return given == nil || bytes.Equal(given, embedded) }
	return &Witness{
		d: d, runners: map[model.Hook]*Runner{}, counts: map[int]bpf.ContainerCounter{}, raised: map[int]bool{}, places: map[noted]string{}, made: map[flowKey]bool{}, met: map[flowKey]*meeting{},
		foreign: !ours(d.opts.Object, bpf.ContainerObject()) || !ours(d.opts.HostObject, bpf.HostObject()),
	}
}

// Run is a Runner's, and gives besides what the program left that is not as it
// noted, in sentences, and whom its events tell of. What it gives is good until the
// next call. A frame that the node has not made came in by a device: where TellsLed,
// the program is told by which; else ledBy has to be 0.
func (w *Witness) Run(hook model.Hook, frame []byte, ifindex, ledBy int, mark uint32) (Ran, []Looked, []string, error) {
	runner := w.runners[hook]
	if runner == nil {
		runner = w.d.Runner(hook)
		if err := w.soil(runner); err != nil {
			return Ran{}, nil, nil, err
		}
		w.runners[hook] = runner
	}
	if w.dirt == nil {
		var err error
		if w.dirt, err = newDirt(w.d); err != nil {
			return Ran{}, nil, nil, err
		}
	}
	w.dirt.runs++
	if err := w.limit(); err != nil {
		return Ran{}, nil, nil, err
	}
	if err := w.dirt.spread(); err != nil {
		return Ran{}, nil, nil, err
	}
	if err := w.soilHalves(); err != nil {
		return Ran{}, nil, nil, err
	}
	dirt := w.dirt.word()
	copy(runner.in.CB[1:], []uint32{dirt, dirt, dirt, dirt})
	runner.ledBy = ledBy
	ran, err := runner.Run(frame, ifindex, mark)
	w.told = w.told[:0]
	problem := w.d.eachEvent(func(e *bpf.ContainerEvent) { w.told = append(w.told, *e) })
	if problem != nil {
		return ran, nil, nil, problem
	}
	if _, contradicts := err.(*Contradiction); err != nil && !contradicts {
		return ran, nil, nil, err
	}
	w.looked = w.looked[:0]
	for i := range w.told {
		e := &w.told[i]
		w.looked = append(w.looked, Looked{decodeTuple(&e.Key), lookups[e.Lookup]})
	}
	if runner.out.CB[0] == 0 { // nothing is noted, and nothing may be told
		if len(w.told) > 0 {
			return ran, w.looked, []string{"it told an event of a packet that is judged already"}, err
		}
		return ran, w.looked, nil, err
	}
	w.count(hook, &ran)
	faults := append(w.place(&ran.Decision), w.events(hook, &runner.out.CB, &ran, ifindex)...)
	kept, problem := w.kept(frame, &runner.out.CB)
	if problem != nil {
		return ran, w.looked, faults, problem
	}
	return ran, w.looked, append(faults, kept...), err
}

// count adds what the counters have to show of a run.
func (w *Witness) count(hook model.Hook, ran *Ran) {
	d, length := &ran.Decision, uint64(len(ran.Data))
	raise := func(reason model.Reason) {
		index := w.d.names.counter(reason, hook)
		w.raised[index] = true
		c := w.counts[index]
		w.counts[index] = bpf.ContainerCounter{Packets: c.Packets + 1, Bytes: c.Bytes + length}
	}
	if d.Action != model.Forward {
		raise(d.Reason)
		return
	}
	raise("")
	if d.Reason != "" {
		raise(d.Reason)
	}
	if d.Reason == model.ReasonAuditIngress {
		w.audits.Packets++
		w.audits.Bytes += length
	}
}

// Counters says which counters are not as the runs have noted: of those that have
// to have risen since the last call. What is counted under another reason or hook
// is missing in one of them.
func (w *Witness) Counters() ([]string, error) {
	var faults []string
	for _, index := range slices.Sorted(maps.Keys(w.raised)) {
		is, err := w.d.rawCounter(index)
		if err != nil {
			return faults, err
		}
		if fault := w.compare(index, is); fault != "" {
			faults = append(faults, fault)
		}
	}
	clear(w.raised)
	return faults, nil
}

// compare holds a counter against what was noted.
func (w *Witness) compare(index int, is bpf.ContainerCounter) string {
	want := w.counts[index]
	if is == want {
		return ""
	}
	reason := w.d.names.reasons[uint8(index/int(bpf.ContainerHookHOOK_MAX))]
	if reason == model.ReasonAuditEgress && is.Packets-want.Packets <= w.audits.Packets && is.Bytes-want.Bytes <= w.audits.Bytes {
		return ""
	}
	if reason == "" {
		reason = "forwarded"
	}
	w.counts[index] = is
	return fmt.Sprintf("the counter of %s at %s has %d packets and %d bytes, and what was noted makes %d and %d",
		reason, hooks[uint8(index%int(bpf.ContainerHookHOOK_MAX))], is.Packets, is.Bytes, want.Packets, want.Bytes)
}

// place looks at the line that is noted: it has to be one that notes, and a
// drop's one that refuses for that reason.
func (w *Witness) place(d *Decision) []string {
	if w.foreign {
		return nil // its source is not here
	}
	key := noted{d.File, d.Line, d.Action, d.Reason}
	problem, looked := w.places[key]
	if !looked {
		problem = misplaced(d, statement(d.File, d.Line))
		w.places[key] = problem
	}
	if problem == "" {
		return nil
	}
	return []string{fmt.Sprintf("the place that is noted, %s:%d, %s", d.File, d.Line, problem)}
}

// refused is whether a packet was turned away, be it without a word; one that is for
// the datapath itself is answered.
func (d *Decision) refused() bool {
	switch d.Action {
	case model.Drop:
		return true
	case model.Reply:
		return d.Reason != "" && d.Reason != model.ReasonARPAnswered && d.Reason != model.ReasonNDPAnswered
	}
	return false
}

// misplaced says what is wrong with a line as the place of a decision.
func misplaced(d *Decision, line string) string {
	refuses := strings.Contains(line, "REFUSE(")
	switch named := reasonNamed(line); {
	case !refuses && !strings.Contains(line, "HERE"):
		return "is no line that notes"
	case d.refused() && !refuses:
		return "does not refuse anything"
	case d.Action == model.Forward && refuses:
		return "refuses"
	case refuses && named != "" && named != d.Reason:
		return "refuses for " + string(named) + ", and not for " + string(d.Reason)
	}
	return ""
}

var reasonInSource = regexp.MustCompile(`REFUSE\([^,]*, REASON_([A-Z0-9_]+)\)`)

// reasonNamed is the reason for which a line of the source refuses; empty where
// it names none.
func reasonNamed(line string) model.Reason {
	m := reasonInSource.FindStringSubmatch(line)
	if m == nil {
		return ""
	}
	return model.Reason(strings.ToLower(strings.ReplaceAll(m[1], "_", "-")))
}

// events compares what was told of a run with its note.
func (w *Witness) events(hook model.Hook, cb *[5]uint32, ran *Ran, ifindex int) []string {
	var faults []string
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	want := dueEvents(ran)
	if w.due = len(want); w.dirt.limited {
		return nil // the meter tells how many were
	}
	if len(w.told) == len(want)+1 && ran.Decision.Action != model.Forward {
		// It was judged first, and dropped or answered when it was carried.
		want = append([]dueEvent{{bpf.ContainerEventKindEVENT_VERDICT, bpf.ContainerVerdictVERDICT_FORWARD}}, want...)
	}
	if len(w.told) != len(want) && !(len(want) == 0 && ran.Decision.Flow == FlowRejudged && len(w.told) == 1) {
		fault("it told %d events, and what it noted makes %d", len(w.told), len(want))
		return faults
	}
	for i := range w.told {
		e := &w.told[i]
		if i < len(want) && (bpf.ContainerEventKind(e.Kind) != want[i].kind || bpf.ContainerVerdict(e.Verdict) != want[i].verdict) {
			fault("an event is of kind %d with verdict %d, and not of %d with %d", e.Kind, e.Verdict, want[i].kind, want[i].verdict)
		}
		if hooks[e.Key.Hook] != hook {
			fault("an event is of hook %d", e.Key.Hook)
		}
		if container := hook == model.FromContainer || hook == model.ToContainer; container && int(e.Key.Ifindex) != ifindex || !container && e.Key.Ifindex != 0 {
			fault("an event is of device %d", e.Key.Ifindex)
		}
		if i < len(w.told)-1 {
			continue // the note is of the last one
		}
		noted := map[string][2]uint32{
			"lookup": {uint32(e.Lookup), uint32(notedLookup(cb))}, "tables": {uint32(e.Tables), cb[3]},
			"way out": {uint32(e.Out), cb[0] & 0xff &^ noteAsItIs}, "device of the way out": {e.OutIfindex, cb[1]},
			"place": {e.Where, cb[2] & 0xffffff}, "origin": {e.Origin, cb[4]},
		}
		if e.Verdict != uint8(bpf.ContainerVerdictVERDICT_FORWARD) {
			noted["reason"] = [2]uint32{uint32(e.Reason), cb[2] >> 24}
		}
		for _, name := range slices.Sorted(maps.Keys(noted)) {
			if v := noted[name]; v[0] != v[1] {
				fault("an event tells %s %#x, and noted is %#x", name, v[0], v[1])
			}
		}
		l := w.d.shown()
		event := w.d.event(e, &l)
		if after, ok := leavesAs(ran.Data); ok && ran.Decision.Action == model.Forward && ran.Decision.Out != "tunnel" && event.After != after {
			fault("an event tells that it leaves as %v, and it leaves as %v", event.After, after)
		}
		if event.Reply && ran.Decision.Flow == FlowNew {
			fault("an event tells that a new flow begins by a reply")
		}
		if int(e.Len) != len(ran.Data) && ran.Decision.Action != model.Forward {
			fault("an event tells a length of %d, of %d", e.Len, len(ran.Data))
		}
	}
	return faults
}

// dueEvent is what an event has to be.
type dueEvent struct {
	kind    bpf.ContainerEventKind
	verdict bpf.ContainerVerdict
}

// dueEvents are those that a run has to tell: of everything that is not
// forwarded, of what is forwarded though a policy denies it, and of new flows.
func dueEvents(ran *Ran) []dueEvent {
	const ofDrop, ofVerdict = bpf.ContainerEventKindEVENT_DROP, bpf.ContainerEventKindEVENT_VERDICT
	switch d := &ran.Decision; {
	case d.Action == model.Drop:
		return []dueEvent{{ofDrop, bpf.ContainerVerdictVERDICT_DROP}}
	case d.Action == model.Reply:
		return []dueEvent{{ofDrop, bpf.ContainerVerdictVERDICT_REPLY}}
	case d.Reason != "":
		return []dueEvent{{ofVerdict, bpf.ContainerVerdictVERDICT_AUDIT}}
	case d.Flow == FlowNew:
		return []dueEvent{{ofVerdict, bpf.ContainerVerdictVERDICT_FORWARD}}
	}
	return nil
}
