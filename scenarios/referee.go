// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"time"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/oracle"
)

// Referee compares what hooks do to frames with what the model expects, as
// the runs of scenarios in world prog do, for those who make frames by other
// means. It is for one goroutine at a time.
type Referee struct {
	// Doubt, when not nil, changes what the model expects of a frame. It is
	// for tests of those who look for disagreements.
	Doubt func(frame []byte, e oracle.Expectation) oracle.Expectation

	judge *judge
}

// NewReferee makes a referee for a network of one node, whose flow table it
// sees. Its oracle knows no object yet.
func NewReferee(topo lab.Topology, devices map[model.Key]model.Device, dp *datapath.Datapath) *Referee {
	r := &Referee{judge: newJudge(topo, []model.Local{{Devices: devices, Gateways: topo.Gateways}}, time.Now)}
	r.judge.see(topo.Nodes[0].Name, dp)
	r.Oracle().Terse = true
	return r
}

// Oracle is whom the referee asks. Objects are set there.
func (r *Referee) Oracle() *oracle.Oracle { return r.judge.benches[0].oracle }

// Look is called with a frame before a hook sees it, and Step behind.
func (r *Referee) Look(at model.Where, frame []byte, now time.Time) {
	r.judge.look("", at, frame, now, false)
}

// Step compares one hook's part; the oracle tells no story of it. now is the time by the datapath's clock.
func (r *Referee) Step(s lab.Step, now time.Time) []Disagreement {
	r.judge.reset()
	r.judge.doubt = r.Doubt
	r.judge.step(s, now)
	return r.judge.disagreed
}

// Expected is what the model expected of the last Step's frame.
func (r *Referee) Expected() oracle.Expectation { return r.judge.expected }
