// Package jskvtest gives tests a real NATS server, a replicated cluster of them, and a bad
// network to reach them through.
//
// Everything runs inside the test's process and ends with the test. A helper that cannot do
// what it should ends the test with a message, so that the test reads straight on:
//
//	func TestProfilesSurviveARestart(t *testing.T) {
//		srv := jskvtest.NewServer(t)
//		profiles := myapp.New(srv.JetStream())
//		profiles.SetColor("sue", "blue")
//
//		srv.Restart()
//
//		if got := profiles.Color("sue"); got != "blue" {
//			t.Errorf("sue's color is %q", got)
//		}
//	}
//
// The parts:
//
//   - NewServer: one server with JetStream, stored in a temporary directory, that can be stopped
//     and started again at the same address with its data.
//   - NewCluster: several servers that replicate, of which each can be stopped and started, and
//     whose leaders can be found and made to step down.
//   - NewProxy: stands between client and server and delays, stalls, loses or cuts.
//   - DeleteConsumers, ConsumerCount: what clients leave on the server, and taking it from them.
//
// # Waiting
//
// Every method returns when its work is done, and no sooner: a server that was started is ready,
// one that was stopped has ended. All waiting has a bound, after which the test fails.
//
// A client notices such things later, in its own time. Poll for that and do not sleep:
//
//	srv.Stop()
//	require.Eventually(t, nc.IsReconnecting, 10*time.Second, 5*time.Millisecond)
//
// # Caveats
//
// NATS sets how long the elections of a cluster take, and it cannot be configured. A server that is
// stopped hands its leaderships over at once. When a whole cluster comes back there was nobody to
// hand over to, and the election takes 4 to 9 seconds.
//
// Stop ends a server in good order. For a server that falls silent use a Proxy.
//
// The package imports nats-server and belongs in tests. For a server inside a program there
// is package embedded.
package jskvtest
