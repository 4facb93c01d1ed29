#!/usr/bin/env bash
# Start a throw-away Slurm on this machine: a controller and two nodes with a GPU each (on paper),
# without systemd, cgroups or a database.     tests/slurm/start.sh DIR
# Needs root and, on Debian, apt-get install -y --no-install-recommends slurm-wlm munge
# The configuration has to be /etc/slurm: Snakemake's Slurm plugin drops SLURM_CONF.
set -euo pipefail
dir=$(realpath -m "${1:?state directory}")
nodes=${NODES:-2} cpus=${CPUS:-2} mem=${MEM_MB:-4500} max_time=${MAX_TIME:-120}
host=$(hostname -s) conf=/etc/slurm/slurm.conf

if [ -e $conf ] && ! grep -q '^ClusterName=throwaway$' $conf; then
  echo "$conf belongs to another cluster" >&2
  exit 1
fi
if [ -e $conf ] && scontrol ping 2>/dev/null | grep -q 'is UP'; then
  echo "a throw-away cluster is running already" >&2
  exit 2
fi

rm -rf "$dir/state" "$dir"/node*
mkdir -p "$dir/state"
for i in $(seq "$nodes"); do mkdir -p "$dir/node$i"; done

if ! munge -n >/dev/null 2>&1; then
  install -d -o munge -g munge -m 0755 /run/munge
  install -d -o munge -g munge -m 0700 /var/lib/munge /var/log/munge
  [ -s /etc/munge/munge.key ] || install -o munge -g munge -m 0400 <(head -c 128 /dev/urandom) /etc/munge/munge.key
  runuser -u munge -- munged
fi

mkdir -p /etc/slurm
cat > /etc/slurm/gres.conf <<CONF
NodeName=node[1-$nodes] Name=gpu File=/dev/null
CONF
cat > $conf <<CONF
ClusterName=throwaway
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/%n.log
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
# No cgroups: processes are tracked by their group, which outlives a dead parent, and memory is
# enforced by polling /proc.
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
# no database: the controller keeps finished jobs for squeue
AccountingStorageType=accounting_storage/none
MinJobAge=43200
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=5,bf_interval=5,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
KillWait=20
GresTypes=gpu
NodeName=node[1-$nodes] NodeHostname=$host NodeAddr=127.0.0.1 Port=[17001-$((17000 + nodes))] CPUs=$cpus RealMemory=$mem Gres=gpu:1
PartitionName=main Nodes=ALL Default=YES DefaultTime=10 MaxTime=$max_time DefMemPerCPU=500 State=UP
CONF

slurmctld
for i in $(seq "$nodes"); do slurmd -N "node$i"; done
for _ in $(seq 300); do
  [ "$(sinfo -h -t idle -o %D 2>/dev/null)" = "$nodes" ] && break
  sleep 0.1
done
sinfo
[ "$(sinfo -h -t idle -o %D)" = "$nodes" ] || { tail -n 20 "$dir"/*.log; exit 1; }
