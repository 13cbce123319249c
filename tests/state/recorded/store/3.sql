BEGIN TRANSACTION;
CREATE TABLE bundles (
            job_id TEXT PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE, content BLOB NOT NULL
        ) STRICT;
INSERT INTO "bundles" VALUES('4',CAST('{"format": 2, "directives": [["job-name", "a07f8adf-local-4"], ["comment", "a07f8adf-local-4"], ["partition", "main"], ["nodes", "1"], ["cpus-per-task", "1"], ["mem", "1G"], ["time", "0-01:00:00"], ["chdir", "{folder}/home/alice/4"], ["output", "{folder}/home/alice/4/stdout.txt"], ["error", "{folder}/home/alice/4/stderr.txt"], ["open-mode", "append"], ["export", "NONE"]], "files": {"job.sbatch": ["#!/bin/bash\n#SBATCH --job-name=a07f8adf-local-4\n#SBATCH --comment=a07f8adf-local-4\n#SBATCH --partition=main\n#SBATCH --nodes=1\n#SBATCH --cpus-per-task=1\n#SBATCH --mem=1G\n#SBATCH --time=0-01:00:00\n#SBATCH --chdir={folder}/home/alice/4\n#SBATCH --output={folder}/home/alice/4/stdout.txt\n#SBATCH --error={folder}/home/alice/4/stderr.txt\n#SBATCH --open-mode=append\n#SBATCH --export=NONE\n# slurm-adapter job script, format 1\nexport SLURM_EXPORT_ENV=ALL\nucloud_folder={folder}/home/alice/4\n\nif [ \"${1-}\" != payload ]; then\n    # The fence: of all Slurm jobs made for this job only the first to get here runs anything.\n    ucloud_run=\"${SLURM_ARRAY_JOB_ID:-${SLURM_JOB_ID-}}\"\n    if [ -z \"$ucloud_run\" ]; then\n        echo \"slurm-adapter: this script runs under sbatch only; nothing was run\" >&2\n        exit 1\n    fi\n    ln -sn \"$ucloud_run\" \"$ucloud_folder/owner\" 2>/dev/null\n    ucloud_owner=\"$(readlink \"$ucloud_folder/owner\" 2>/dev/null)\"\n    if [ -z \"$ucloud_owner\" ]; then\n        echo \"slurm-adapter: $ucloud_folder/owner can be neither made nor read; nothing was run\" >&2\n        exit 1\n    elif [ \"$ucloud_owner\" != \"$ucloud_run\" ]; then\n        echo \"slurm-adapter: $ucloud_owner holds this job''s folder; Slurm job $ucloud_run runs nothing\" >&2\n        exit 0\n    fi\nfi\n\nexport UCLOUD_JOB_ID=4\nexport UCLOUD_MACHINE_NAME=example-compute\nexport UCLOUD_MACHINE_CATEGORY=example-compute\nexport UCLOUD_MACHINE_CPU=1\nexport UCLOUD_MACHINE_MEMORY_IN_GIGS=1\nexport UCLOUD_MACHINE_GPU=0\nexport UCLOUD_NODES=1\nexport UCLOUD_PARTITION=main\nexport UCLOUD_APPLICATION_NAME=sleeper\nexport UCLOUD_APPLICATION_VERSION=1\nexport UCLOUD_DIR=\"$ucloud_folder/ucloud/${SLURM_NODEID:-0}\"\n\nif [ \"${1-}\" != payload ]; then\n    # bash, for dash drops exported functions such as `module`; -p, for it reads no start-up file so.\n    exec /bin/bash -p \"$ucloud_folder/node/batch.sh\" \"$ucloud_folder\"\nfi\n\n# What follows runs with the job''s names in place: the application.\nsleep 60\n", 448], "node/settings": ["format=1\njob_id=4\nnames=no\nview={folder}/shared/peers/4\nreplicate=no\ncpus=1\ntime_limit=3600\nwait=600\nmethods=unshare bwrap nss_wrapper\nallow_env=no\naddress=\n", 384]}, "shared": {"node/batch.sh": ["31fdd629d87afd94aea7e325fb074d872106ac07d8897bce3d456ca326d13edc", 448], "node/join.sh": ["9b66f7abd68bb532e030d3640d954983bc200b32baa4c2cdd6742dd4bfc75b7f", 448], "node/holder.sh": ["4d231b2d5040f62842cbec5a1bb511d79613c36a76be2ca8d54bf41a5fc838fc", 448], "node/srun": ["cea942a3b9c57d68dec77966ecd734407f19aa39766870e9b79aacea954798b0", 448]}}' AS BLOB));
INSERT INTO "bundles" VALUES('5',CAST('{"format": 2, "directives": [["job-name", "a07f8adf-local-5"], ["comment", "a07f8adf-local-5"], ["partition", "main"], ["nodes", "1"], ["cpus-per-task", "1"], ["mem", "1G"], ["time", "0-01:00:00"], ["chdir", "{folder}/home/alice/5"], ["output", "{folder}/home/alice/5/stdout.txt"], ["error", "{folder}/home/alice/5/stderr.txt"], ["open-mode", "append"], ["export", "NONE"]], "files": {"job.sbatch": ["#!/bin/bash\n#SBATCH --job-name=a07f8adf-local-5\n#SBATCH --comment=a07f8adf-local-5\n#SBATCH --partition=main\n#SBATCH --nodes=1\n#SBATCH --cpus-per-task=1\n#SBATCH --mem=1G\n#SBATCH --time=0-01:00:00\n#SBATCH --chdir={folder}/home/alice/5\n#SBATCH --output={folder}/home/alice/5/stdout.txt\n#SBATCH --error={folder}/home/alice/5/stderr.txt\n#SBATCH --open-mode=append\n#SBATCH --export=NONE\n# slurm-adapter job script, format 1\nexport SLURM_EXPORT_ENV=ALL\nucloud_folder={folder}/home/alice/5\n\nif [ \"${1-}\" != payload ]; then\n    # The fence: of all Slurm jobs made for this job only the first to get here runs anything.\n    ucloud_run=\"${SLURM_ARRAY_JOB_ID:-${SLURM_JOB_ID-}}\"\n    if [ -z \"$ucloud_run\" ]; then\n        echo \"slurm-adapter: this script runs under sbatch only; nothing was run\" >&2\n        exit 1\n    fi\n    ln -sn \"$ucloud_run\" \"$ucloud_folder/owner\" 2>/dev/null\n    ucloud_owner=\"$(readlink \"$ucloud_folder/owner\" 2>/dev/null)\"\n    if [ -z \"$ucloud_owner\" ]; then\n        echo \"slurm-adapter: $ucloud_folder/owner can be neither made nor read; nothing was run\" >&2\n        exit 1\n    elif [ \"$ucloud_owner\" != \"$ucloud_run\" ]; then\n        echo \"slurm-adapter: $ucloud_owner holds this job''s folder; Slurm job $ucloud_run runs nothing\" >&2\n        exit 0\n    fi\nfi\n\nexport UCLOUD_JOB_ID=5\nexport UCLOUD_MACHINE_NAME=example-compute\nexport UCLOUD_MACHINE_CATEGORY=example-compute\nexport UCLOUD_MACHINE_CPU=1\nexport UCLOUD_MACHINE_MEMORY_IN_GIGS=1\nexport UCLOUD_MACHINE_GPU=0\nexport UCLOUD_NODES=1\nexport UCLOUD_PARTITION=main\nexport UCLOUD_APPLICATION_NAME=sleeper\nexport UCLOUD_APPLICATION_VERSION=1\nexport UCLOUD_DIR=\"$ucloud_folder/ucloud/${SLURM_NODEID:-0}\"\n\nif [ \"${1-}\" != payload ]; then\n    # bash, for dash drops exported functions such as `module`; -p, for it reads no start-up file so.\n    exec /bin/bash -p \"$ucloud_folder/node/batch.sh\" \"$ucloud_folder\"\nfi\n\n# What follows runs with the job''s names in place: the application.\nsleep 60\n", 448], "node/settings": ["format=1\njob_id=5\nnames=yes\nview={folder}/shared/peers/5\nreplicate=no\ncpus=1\ntime_limit=3600\nwait=600\nmethods=unshare bwrap nss_wrapper\nallow_env=no\naddress=\n", 384], "node/peers": ["4 db\n", 384]}, "shared": {"node/batch.sh": ["31fdd629d87afd94aea7e325fb074d872106ac07d8897bce3d456ca326d13edc", 448], "node/join.sh": ["9b66f7abd68bb532e030d3640d954983bc200b32baa4c2cdd6742dd4bfc75b7f", 448], "node/holder.sh": ["4d231b2d5040f62842cbec5a1bb511d79613c36a76be2ca8d54bf41a5fc838fc", 448], "node/srun": ["cea942a3b9c57d68dec77966ecd734407f19aa39766870e9b79aacea954798b0", 448]}}' AS BLOB));
INSERT INTO "bundles" VALUES('4106',CAST('{"format": 2, "directives": [["job-name", "a07f8adf-example-4106"], ["comment", "a07f8adf-example-4106"], ["partition", "main"], ["nodes", "1"], ["cpus-per-task", "1"], ["mem", "1G"], ["time", "0-01:00:00"], ["chdir", "{folder}/home/alice/4106"], ["output", "{folder}/home/alice/4106/stdout.txt"], ["error", "{folder}/home/alice/4106/stderr.txt"], ["open-mode", "append"], ["export", "NONE"]], "files": {"job.sbatch": ["#!/bin/bash\n#SBATCH --job-name=a07f8adf-example-4106\n#SBATCH --comment=a07f8adf-example-4106\n#SBATCH --partition=main\n#SBATCH --nodes=1\n#SBATCH --cpus-per-task=1\n#SBATCH --mem=1G\n#SBATCH --time=0-01:00:00\n#SBATCH --chdir={folder}/home/alice/4106\n#SBATCH --output={folder}/home/alice/4106/stdout.txt\n#SBATCH --error={folder}/home/alice/4106/stderr.txt\n#SBATCH --open-mode=append\n#SBATCH --export=NONE\n# slurm-adapter job script, format 1\nexport SLURM_EXPORT_ENV=ALL\nucloud_folder={folder}/home/alice/4106\n\nif [ \"${1-}\" != payload ]; then\n    # The fence: of all Slurm jobs made for this job only the first to get here runs anything.\n    ucloud_run=\"${SLURM_ARRAY_JOB_ID:-${SLURM_JOB_ID-}}\"\n    if [ -z \"$ucloud_run\" ]; then\n        echo \"slurm-adapter: this script runs under sbatch only; nothing was run\" >&2\n        exit 1\n    fi\n    ln -sn \"$ucloud_run\" \"$ucloud_folder/owner\" 2>/dev/null\n    ucloud_owner=\"$(readlink \"$ucloud_folder/owner\" 2>/dev/null)\"\n    if [ -z \"$ucloud_owner\" ]; then\n        echo \"slurm-adapter: $ucloud_folder/owner can be neither made nor read; nothing was run\" >&2\n        exit 1\n    elif [ \"$ucloud_owner\" != \"$ucloud_run\" ]; then\n        echo \"slurm-adapter: $ucloud_owner holds this job''s folder; Slurm job $ucloud_run runs nothing\" >&2\n        exit 0\n    fi\nfi\n\nexport UCLOUD_JOB_ID=4106\nexport UCLOUD_MACHINE_NAME=example-compute\nexport UCLOUD_MACHINE_CATEGORY=example-compute\nexport UCLOUD_MACHINE_CPU=1\nexport UCLOUD_MACHINE_MEMORY_IN_GIGS=1\nexport UCLOUD_MACHINE_GPU=0\nexport UCLOUD_NODES=1\nexport UCLOUD_PARTITION=main\nexport UCLOUD_APPLICATION_NAME=sleeper\nexport UCLOUD_APPLICATION_VERSION=1\nexport UCLOUD_DIR=\"$ucloud_folder/ucloud/${SLURM_NODEID:-0}\"\n\nif [ \"${1-}\" != payload ]; then\n    # bash, for dash drops exported functions such as `module`; -p, for it reads no start-up file so.\n    exec /bin/bash -p \"$ucloud_folder/node/batch.sh\" \"$ucloud_folder\"\nfi\n\n# What follows runs with the job''s names in place: the application.\nsleep 60\n", 448], "node/settings": ["format=1\njob_id=4106\nnames=no\nview={folder}/shared/peers/4106\nreplicate=no\ncpus=1\ntime_limit=3600\nwait=600\nmethods=unshare bwrap nss_wrapper\nallow_env=no\naddress=\n", 384]}, "shared": {"node/batch.sh": ["31fdd629d87afd94aea7e325fb074d872106ac07d8897bce3d456ca326d13edc", 448], "node/join.sh": ["9b66f7abd68bb532e030d3640d954983bc200b32baa4c2cdd6742dd4bfc75b7f", 448], "node/holder.sh": ["4d231b2d5040f62842cbec5a1bb511d79613c36a76be2ca8d54bf41a5fc838fc", 448], "node/srun": ["cea942a3b9c57d68dec77966ecd734407f19aa39766870e9b79aacea954798b0", 448]}}' AS BLOB));
INSERT INTO "bundles" VALUES('4107',CAST('{"format": 2, "directives": [["job-name", "a07f8adf-example-4107"], ["comment", "a07f8adf-example-4107"], ["partition", "main"], ["nodes", "1"], ["cpus-per-task", "1"], ["mem", "1G"], ["time", "0-01:00:00"], ["chdir", "{folder}/home/alice/4107"], ["output", "{folder}/home/alice/4107/stdout.txt"], ["error", "{folder}/home/alice/4107/stderr.txt"], ["open-mode", "append"], ["export", "NONE"]], "files": {"job.sbatch": ["#!/bin/bash\n#SBATCH --job-name=a07f8adf-example-4107\n#SBATCH --comment=a07f8adf-example-4107\n#SBATCH --partition=main\n#SBATCH --nodes=1\n#SBATCH --cpus-per-task=1\n#SBATCH --mem=1G\n#SBATCH --time=0-01:00:00\n#SBATCH --chdir={folder}/home/alice/4107\n#SBATCH --output={folder}/home/alice/4107/stdout.txt\n#SBATCH --error={folder}/home/alice/4107/stderr.txt\n#SBATCH --open-mode=append\n#SBATCH --export=NONE\n# slurm-adapter job script, format 1\nexport SLURM_EXPORT_ENV=ALL\nucloud_folder={folder}/home/alice/4107\n\nif [ \"${1-}\" != payload ]; then\n    # The fence: of all Slurm jobs made for this job only the first to get here runs anything.\n    ucloud_run=\"${SLURM_ARRAY_JOB_ID:-${SLURM_JOB_ID-}}\"\n    if [ -z \"$ucloud_run\" ]; then\n        echo \"slurm-adapter: this script runs under sbatch only; nothing was run\" >&2\n        exit 1\n    fi\n    ln -sn \"$ucloud_run\" \"$ucloud_folder/owner\" 2>/dev/null\n    ucloud_owner=\"$(readlink \"$ucloud_folder/owner\" 2>/dev/null)\"\n    if [ -z \"$ucloud_owner\" ]; then\n        echo \"slurm-adapter: $ucloud_folder/owner can be neither made nor read; nothing was run\" >&2\n        exit 1\n    elif [ \"$ucloud_owner\" != \"$ucloud_run\" ]; then\n        echo \"slurm-adapter: $ucloud_owner holds this job''s folder; Slurm job $ucloud_run runs nothing\" >&2\n        exit 0\n    fi\nfi\n\nexport UCLOUD_JOB_ID=4107\nexport UCLOUD_MACHINE_NAME=example-compute\nexport UCLOUD_MACHINE_CATEGORY=example-compute\nexport UCLOUD_MACHINE_CPU=1\nexport UCLOUD_MACHINE_MEMORY_IN_GIGS=1\nexport UCLOUD_MACHINE_GPU=0\nexport UCLOUD_NODES=1\nexport UCLOUD_PARTITION=main\nexport UCLOUD_APPLICATION_NAME=sleeper\nexport UCLOUD_APPLICATION_VERSION=1\nexport UCLOUD_DIR=\"$ucloud_folder/ucloud/${SLURM_NODEID:-0}\"\n\nif [ \"${1-}\" != payload ]; then\n    # bash, for dash drops exported functions such as `module`; -p, for it reads no start-up file so.\n    exec /bin/bash -p \"$ucloud_folder/node/batch.sh\" \"$ucloud_folder\"\nfi\n\n# What follows runs with the job''s names in place: the application.\nsleep 60\n", 448], "node/settings": ["format=1\njob_id=4107\nnames=yes\nview={folder}/shared/peers/4107\nreplicate=no\ncpus=1\ntime_limit=3600\nwait=600\nmethods=unshare bwrap nss_wrapper\nallow_env=no\naddress=\n", 384], "node/peers": ["4106 db\n", 384]}, "shared": {"node/batch.sh": ["31fdd629d87afd94aea7e325fb074d872106ac07d8897bce3d456ca326d13edc", 448], "node/join.sh": ["9b66f7abd68bb532e030d3640d954983bc200b32baa4c2cdd6742dd4bfc75b7f", 448], "node/holder.sh": ["4d231b2d5040f62842cbec5a1bb511d79613c36a76be2ca8d54bf41a5fc838fc", 448], "node/srun": ["cea942a3b9c57d68dec77966ecd734407f19aa39766870e9b79aacea954798b0", 448]}}' AS BLOB));
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
INSERT INTO "facts" VALUES('instance','a07f8adf');
INSERT INTO "facts" VALUES('hosts changed','20');
INSERT INTO "facts" VALUES('hosts written','19');
INSERT INTO "facts" VALUES('hosts seen','1000000010.0');
INSERT INTO "facts" VALUES('next_id','7');
CREATE TABLE jobs (
            id TEXT PRIMARY KEY, origin TEXT NOT NULL, key TEXT, token TEXT NOT NULL UNIQUE,
            owner TEXT NOT NULL, project TEXT, account TEXT NOT NULL, folder TEXT NOT NULL,
            application TEXT NOT NULL, specification TEXT NOT NULL, labels TEXT NOT NULL,
            replicas INTEGER NOT NULL, time_limit INTEGER NOT NULL, array INTEGER NOT NULL, created REAL NOT NULL,
            stage TEXT NOT NULL, state TEXT NOT NULL, status TEXT NOT NULL, slurm_id INTEGER,
            restarts INTEGER NOT NULL, nodes TEXT NOT NULL, addresses TEXT NOT NULL, handed_over REAL,
            missing_since REAL, cancelled REAL, started REAL, ended REAL, exit_code INTEGER, view TEXT
        , tasks INTEGER NOT NULL DEFAULT 0, logs_gone REAL, folder_gone REAL, tidy_after REAL, names INTEGER NOT NULL DEFAULT 0, web_port INTEGER, vnc_port INTEGER, vnc_password TEXT, targets TEXT NOT NULL DEFAULT '[]', output_folder TEXT, unknown_since REAL, gone REAL, original TEXT, unwanted REAL) STRICT;
INSERT INTO "jobs" VALUES('1','local','done','a07f8adf-local-1','alice',NULL,'alice','{folder}/home/alice/1','sleeper 1','{"application":{"name":"sleeper","version":"1"},"product":{"id":"example-compute","category":"example-compute","provider":"example"},"labels":{},"name":"","hostname":"","replicas":1,"allow_duplicate_job":false,"parameters":{},"resources":[],"time_allocation":null,"opened_file":"","restart_on_exit":false,"ssh_enabled":false}','{}',1,3600,0,1000000000.0,'ended','SUCCESS','Your job ended with exit code 0',1,0,'["node001"]','[["192.0.2.1"]]',1000000000.0,NULL,NULL,1000000000.0,1000000001.0,0,NULL,0,NULL,NULL,NULL,0,NULL,NULL,NULL,'[]',NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES('2','local','runs','a07f8adf-local-2','alice',NULL,'alice','{folder}/home/alice/2','sleeper 1','{"application":{"name":"sleeper","version":"1"},"product":{"id":"example-compute","category":"example-compute","provider":"example"},"labels":{},"name":"","hostname":"","replicas":1,"allow_duplicate_job":false,"parameters":{},"resources":[],"time_allocation":null,"opened_file":"","restart_on_exit":false,"ssh_enabled":false}','{}',1,3600,0,1000000002.0,'submitted','RUNNING','Your job is running',2,0,'["node001"]','[["192.0.2.1"]]',1000000002.0,NULL,NULL,1000000002.0,NULL,NULL,NULL,0,NULL,NULL,NULL,0,NULL,NULL,NULL,'[]',NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES('3','local','array','a07f8adf-local-3','alice',NULL,'alice','{folder}/home/alice/3','array 1','{"application":{"name":"array","version":"1"},"product":{"id":"example-compute","category":"example-compute","provider":"example"},"labels":{},"name":"","hostname":"","replicas":1,"allow_duplicate_job":false,"parameters":{},"resources":[],"time_allocation":null,"opened_file":"","restart_on_exit":false,"ssh_enabled":false}','{}',1,3600,1,1000000003.0,'submitted','IN_QUEUE','Your job waits in the queue: Priority',3,0,'[]','[]',1000000003.0,NULL,NULL,NULL,NULL,NULL,NULL,2,NULL,NULL,NULL,0,NULL,NULL,NULL,'[]',NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES('4','local','doubt','a07f8adf-local-4','alice',NULL,'alice','{folder}/home/alice/4','sleeper 1','{"application":{"name":"sleeper","version":"1"},"product":{"id":"example-compute","category":"example-compute","provider":"example"},"labels":{},"name":"","hostname":"","replicas":1,"allow_duplicate_job":false,"parameters":{},"resources":[],"time_allocation":null,"opened_file":"","restart_on_exit":false,"ssh_enabled":false}','{}',1,3600,0,1000000003.0,'submitting','IN_QUEUE','Your job was handed to Slurm, whose answer was lost; it is being looked for (Socket timed out on send/recv operation)',NULL,0,'[]','[]',1000000003.0,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,0,NULL,NULL,NULL,'[]',NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES('5','local','waits','a07f8adf-local-5','alice',NULL,'alice','{folder}/home/alice/5','sleeper 1','{"application":{"name":"sleeper","version":"1"},"product":{"id":"example-compute","category":"example-compute","provider":"example"},"labels":{},"name":"","hostname":"","replicas":1,"allow_duplicate_job":false,"parameters":{},"resources":[{"type":"peer","hostname":"db","job_id":"4"}],"time_allocation":null,"opened_file":"","restart_on_exit":false,"ssh_enabled":false}','{}',1,3600,0,1000000003.0,'claimed','IN_QUEUE','Your job waits until Slurm has its peer 4 (db)',NULL,0,'[]','[]',NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,1,NULL,NULL,NULL,'[]',NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES('6','local','consumer','a07f8adf-local-6','alice',NULL,'alice','{folder}/home/alice/6','sleeper 1','{"application":{"name":"sleeper","version":"1"},"product":{"id":"example-compute","category":"example-compute","provider":"example"},"labels":{},"name":"","hostname":"","replicas":1,"allow_duplicate_job":false,"parameters":{},"resources":[{"type":"peer","hostname":"db","job_id":"2"}],"time_allocation":null,"opened_file":"","restart_on_exit":false,"ssh_enabled":false}','{}',1,3600,0,1000000003.0,'submitted','RUNNING','Your job is running',6,0,'["node002"]','[["192.0.2.2"]]',1000000003.0,NULL,NULL,1000000003.0,NULL,NULL,NULL,0,NULL,NULL,NULL,1,NULL,NULL,NULL,'[]',NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES('4101','example','4101','a07f8adf-example-4101','alice',NULL,'alice','{folder}/home/alice/4101','sleeper 1','{"application":{"name":"sleeper","version":"1"},"product":{"id":"example-compute","category":"example-compute","provider":"example"},"labels":{},"name":"","hostname":"","replicas":1,"allow_duplicate_job":false,"parameters":{},"resources":[],"time_allocation":null,"opened_file":"","restart_on_exit":false,"ssh_enabled":false}','{}',1,3600,0,1000000004.0,'ended','SUCCESS','Your job ended with exit code 0',7,0,'["node001"]','[["192.0.2.1"]]',1000000004.0,NULL,NULL,1000000004.0,1000000005.0,0,NULL,0,NULL,NULL,NULL,0,NULL,NULL,NULL,'[]',NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES('4102','example','4102','a07f8adf-example-4102','alice',NULL,'alice','{folder}/home/alice/4102','sleeper 1','{"application":{"name":"sleeper","version":"1"},"product":{"id":"example-compute","category":"example-compute","provider":"example"},"labels":{},"name":"","hostname":"","replicas":1,"allow_duplicate_job":false,"parameters":{},"resources":[],"time_allocation":null,"opened_file":"","restart_on_exit":false,"ssh_enabled":false}','{}',1,3600,0,1000000006.0,'submitted','RUNNING','Your job is running',8,0,'["node003"]','[["192.0.2.3"]]',1000000006.0,NULL,NULL,1000000006.0,NULL,NULL,NULL,0,NULL,NULL,NULL,0,NULL,NULL,NULL,'[]',NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES('4103','example','4103','a07f8adf-example-4103','alice',NULL,'alice','{folder}/home/alice/4103','sleeper 1','{"application":{"name":"sleeper","version":"1"},"product":{"id":"example-compute","category":"example-compute","provider":"example"},"labels":{},"name":"","hostname":"","replicas":1,"allow_duplicate_job":false,"parameters":{},"resources":[{"type":"peer","hostname":"db","job_id":"4102"}],"time_allocation":null,"opened_file":"","restart_on_exit":false,"ssh_enabled":false}','{}',1,3600,0,1000000007.0,'submitted','RUNNING','Your job is running',9,0,'["node004"]','[["192.0.2.4"]]',1000000007.0,NULL,NULL,1000000007.0,NULL,NULL,NULL,0,NULL,NULL,NULL,1,NULL,NULL,NULL,'[]',NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES('4104','example','4104','a07f8adf-example-4104','alice',NULL,'alice','{folder}/home/alice/4104','sleeper 1','{"application":{"name":"sleeper","version":"1"},"product":{"id":"example-compute","category":"example-compute","provider":"example"},"labels":{},"name":"","hostname":"","replicas":1,"allow_duplicate_job":false,"parameters":{},"resources":[],"time_allocation":null,"opened_file":"","restart_on_exit":false,"ssh_enabled":false}','{}',1,3600,0,1000000008.0,'submitted','IN_QUEUE','Your job waits in the queue: Priority',10,0,'[]','[]',1000000008.0,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,0,NULL,NULL,NULL,'[]',NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES('4105','example','4105','a07f8adf-example-4105','alice',NULL,'alice','{folder}/home/alice/4105','sleeper 1','{"application":{"name":"sleeper","version":"1"},"product":{"id":"example-compute","category":"example-compute","provider":"example"},"labels":{},"name":"","hostname":"","replicas":1,"allow_duplicate_job":false,"parameters":{},"resources":[],"time_allocation":null,"opened_file":"","restart_on_exit":false,"ssh_enabled":false}','{}',1,3600,0,1000000008.0,'submitted','IN_QUEUE','Your job waits in the queue to run again: BeginTime',11,1,'[]','[]',1000000008.0,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,0,NULL,NULL,NULL,'[]',NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES('4106','example','4106','a07f8adf-example-4106','alice',NULL,'alice','{folder}/home/alice/4106','sleeper 1','{"application":{"name":"sleeper","version":"1"},"product":{"id":"example-compute","category":"example-compute","provider":"example"},"labels":{},"name":"","hostname":"","replicas":1,"allow_duplicate_job":false,"parameters":{},"resources":[],"time_allocation":null,"opened_file":"","restart_on_exit":false,"ssh_enabled":false}','{}',1,3600,0,1000000010.0,'submitting','IN_QUEUE','Your job was handed to Slurm, whose answer was lost; it is being looked for (Socket timed out on send/recv operation)',NULL,0,'[]','[]',1000000010.0,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,0,NULL,NULL,NULL,'[]',NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES('4107','example','4107','a07f8adf-example-4107','alice',NULL,'alice','{folder}/home/alice/4107','sleeper 1','{"application":{"name":"sleeper","version":"1"},"product":{"id":"example-compute","category":"example-compute","provider":"example"},"labels":{},"name":"","hostname":"","replicas":1,"allow_duplicate_job":false,"parameters":{},"resources":[{"type":"peer","hostname":"db","job_id":"4106"}],"time_allocation":null,"opened_file":"","restart_on_exit":false,"ssh_enabled":false}','{}',1,3600,0,1000000010.0,'claimed','IN_QUEUE','',NULL,0,'[]','[]',NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,1,NULL,NULL,NULL,'[]',NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES('4108','example','4108','a07f8adf-example-4108','alice',NULL,'alice','{folder}/home/alice/4108','sleeper 1','{"application":{"name":"sleeper","version":"1"},"product":{"id":"example-compute","category":"example-compute","provider":"example"},"labels":{},"name":"","hostname":"","replicas":1,"allow_duplicate_job":false,"parameters":{},"resources":[],"time_allocation":null,"opened_file":"","restart_on_exit":false,"ssh_enabled":false}','{}',1,3600,0,1000000010.0,'submitted','IN_QUEUE','Your job has been submitted to the queue (Slurm ID: 13)',13,0,'[]','[]',1000000010.0,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,0,NULL,NULL,NULL,'[]',NULL,NULL,NULL,NULL,1000000010.0);
CREATE TABLE peers (
            consumer TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, hostname TEXT NOT NULL, job_id TEXT NOT NULL,
            position INTEGER NOT NULL, PRIMARY KEY (consumer, hostname)
        ) STRICT;
INSERT INTO "peers" VALUES('5','db','4',0);
INSERT INTO "peers" VALUES('6','db','2',0);
INSERT INTO "peers" VALUES('4103','db','4102',0);
INSERT INTO "peers" VALUES('4107','db','4106',0);
CREATE TABLE shared (digest TEXT PRIMARY KEY, content BLOB NOT NULL) STRICT;
INSERT INTO "shared" VALUES('31fdd629d87afd94aea7e325fb074d872106ac07d8897bce3d456ca326d13edc',CAST('#!/bin/sh
# The batch script''s process from the fence on: gives the job its names, runs the application, records how it ended.
# Usage: batch.sh FOLDER
# Runs under any POSIX shell. What it reads from files is data: it is never evaluated.
set -u

folder=$1
node=$folder/node
started=$(date +%s)
restart=${SLURM_RESTART_COUNT:-0}
run=$SLURM_JOB_ID-$restart # of an array every task has an id of its own
here=${SLURMD_NODENAME:-$(hostname)}
nodes=${SLURM_JOB_NUM_NODES:-${SLURM_NNODES:-1}}
log=$node/holders-$run.txt
payload='''' holders='''' witness='''' caught='''' cancelled=no

say() { printf ''slurm-adapter: %s\n'' "$*" >&2; }

job_id='''' names=no view='''' replicate=no cpus=1 time_limit=0 patience=600 allow_env=no address=''''
while IFS= read -r line; do
    value=${line#*=}
    case $line in
        job_id=*) job_id=$value ;;
        names=*) names=$value ;;
        view=*) view=$value ;;
        replicate=*) replicate=$value ;;
        cpus=*) cpus=$value ;;
        time_limit=*) time_limit=$value ;;
        wait=*) patience=$value ;;
        allow_env=*) allow_env=$value ;;
        address=*) address=$value ;;
    esac
done <"$node/settings" || { say "$node/settings cannot be read; nothing was run"; exit 1; }

# record EXIT_CODE [REASON]: put in place whole, and only when the application was waited for or never started.
record() {
    record_name=exit${SLURM_ARRAY_TASK_ID:+-$SLURM_ARRAY_TASK_ID}.json
    signal=null
    if [ "$1" -gt 128 ] && [ "$1" -le 192 ]; then signal=$(($1 - 128)); fi
    reason=null
    if [ -n "${2-}" ]; then
        reason=\"$(printf %s "$2" | tr ''\n\t'' ''  '' | LC_ALL=C tr -d ''\000-\037\177'' | sed ''s/[\\"]/\\&/g'')\"
    fi
    {
        printf ''{"format":1,"job":"%s","slurm_id":%s,'' "$job_id" "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}"
        printf ''"restart":%s,"task":%s,"exit_code":%s,'' "$restart" "${SLURM_ARRAY_TASK_ID:-null}" "$1"
        printf ''"signal":%s,"ended_at":%s,"reason":%s}\n'' "$signal" "$(date +%s)" "$reason"
    } >"$folder/.$record_name.$run"
    mv -f "$folder/.$record_name.$run" "$folder/$record_name" ||
        say "the exit record $folder/$record_name could not be written"
}

give_up() { # REASON [EXIT_CODE]: the application was not started
    say "$1"
    record "${2:-1}" "$1"
    end_holders
    exit "${2:-1}"
}

# --- Signals ---------------------------------------------------------------------------------------------------------
# Some signals reach every process of the batch step (`scancel --full`), others (`scancel --batch`, `--signal=B:`, a
# cancel or a time limit of most versions) this one alone, which stands in the place of the user''s script. The witness,
# which dies of any signal, tells them apart: while it lives nobody else got it, and it is passed on. It dies with this
# process, however that ends.
start_witness() {
    setpriv --pdeathsig KILL sleep infinity </dev/null >/dev/null 2>&1 9>&- &
    witness=$!
}

alive() { # PID of a child: it runs, and is no zombie
    case $(sed ''s/.*) //; s/ .*//'' "/proc/$1/stat" 2>/dev/null) in '''' | Z | X) return 1 ;; esac
}

list_application() { # the application''s processes, less srun: its tasks get TERM from Slurm, and it would kill them
    # They are of this process''s group, and not its own helpers: those descend from it, and not through the payload.
    cat /proc/[0-9]*/stat 2>/dev/null | awk -v me=$$ -v payload="$payload" ''
        { pid = $1; name = $0; sub(/\) [^)]*$/, "", name); sub(/^[^(]*\(/, "", name); sub(/^.*\) /, "") }
        { state[pid] = $1; parent[pid] = $2; pgrp[pid] = $3; comm[pid] = name }
        END {
            for (pid in pgrp) {
                if (pgrp[pid] != pgrp[me] || comm[pid] == "srun" || state[pid] ~ /[ZX]/) continue
                for (up = pid; up != me && up != payload && up in parent; up = parent[up]) ;
                if (up != me) print pid
            }
        }
    ''
}

# shellcheck disable=SC2329 # the traps below call it
signalled() {
    caught=$1
    [ -n "$payload" ] || return 0
    sleep 0.2
    if alive "$witness"; then
        if [ "$1" = TERM ]; then
            cancelled=yes
            list_application | while read -r pid; do kill -s TERM "$pid"; done 2>/dev/null
        else
            kill -s "$1" "$payload" 2>/dev/null
        fi
    else
        wait "$witness" 2>/dev/null
        start_witness
    fi
}
trap ''signalled TERM'' TERM
trap ''signalled INT'' INT
trap ''signalled HUP'' HUP
trap ''signalled QUIT'' QUIT
trap ''signalled USR1'' USR1
trap ''signalled USR2'' USR2

wait_for_payload() { # leaves its exit code in `code`
    while :; do
        caught=
        wait "$payload" 2>/dev/null
        code=$?
        [ -n "$caught" ] || return 0
        if ! kill -0 "$payload" 2>/dev/null; then
            # It ended while the trap ran: its code is still to be had, or was had by the wait above (then: 127).
            wait "$payload" 2>/dev/null
            again=$?
            [ "$again" -eq 127 ] || code=$again
            return 0
        fi
    done
}

# --- The replicas ----------------------------------------------------------------------------------------------------
resolve() { # NAME -> its addresses, one a line, none that only this node could use
    case $1 in
        *:*) printf ''%s\n'' "$1" ;;
        *[!0-9.]*) timeout 20 getent ahosts "$1" | awk ''{ print $1 }'' ;;
        *) printf ''%s\n'' "$1" ;;
    esac | awk ''$1 !~ /^(127\.|0\.0\.0\.0|::1$|::$|fe80:|169\.254\.)/ && !seen[$1]++ { print $1 }''
}

list_replicas() { # in the order of ranks, lines `RANK NODE ADDRESS`; a node of two addresses has two
    scontrol show hostnames "${SLURM_JOB_NODELIST:-$here}" >"$node/nodes-$run" && [ -s "$node/nodes-$run" ] || return 1
    : >"$node/addresses-$run"
    if [ -z "$address" ]; then
        tries=0
        until timeout 30 scontrol -o show node "${SLURM_JOB_NODELIST:-$here}" >"$node/addresses-$run" 2>>"$log"; do
            tries=$((tries + 1))
            [ "$tries" -lt 5 ] && [ -z "$caught" ] || break
            sleep 2
        done
    fi
    rank=0
    while IFS= read -r name; do
        if [ -n "$address" ]; then
            target=$(printf %s "$address" | sed "s/{node}/$name/g")
        else
            target=$(awk -v name="$name" ''$1 == "NodeName=" name {
                for (i = 2; i <= NF; i++) if ($i ~ /^NodeAddr=/) { print substr($i, 10); exit }
            }'' "$node/addresses-$run")
        fi
        found=$(resolve "${target:-$name}")
        [ -n "$found" ] || say "the address of $name is not known: job-$job_id-$rank does not resolve from here"
        printf ''%s\n'' "${found:--}" | while IFS= read -r one; do printf ''%s %s %s\n'' "$rank" "$name" "$one"; done
        rank=$((rank + 1))
    done <"$node/nodes-$run" >"$node/replicas-$run.new"
    rm -f "$node/nodes-$run" "$node/addresses-$run"
    mv -f "$node/replicas-$run.new" "$node/replicas-$run"
}

write_rank_files() (
    mkdir -p "$folder/ucloud" && cd "$folder/ucloud" || exit 1
    awk ''{ print $1 }'' "$node/replicas-$run" | sort -un | xargs mkdir -p || exit 1
    # Every rank has a file for each replica: the name of its node.
    awk -v job="$job_id" -v nodes="$nodes" -v cpus="$cpus" ''
        function put(text, file) { print text >file; close(file) }
        !seen[$1]++ { name[n++] = $2 }
        END {
            for (rank = 0; rank < n; rank++) {
                put(job, rank "/job_id.txt"); put(rank, rank "/rank.txt")
                put(cpus, rank "/cores.txt"); put(nodes, rank "/number_of_nodes.txt")
                for (other = 0; other < n; other++) put(name[other], rank "/node-" other ".txt")
            }
        }'' "$node/replicas-$run"
)

# --- The names -------------------------------------------------------------------------------------------------------
start_holders() {
    # The holders read this pipe through srun. Only this process holds its other end: whatever ends this process ends
    # them, though they ignore signals.
    pipes=$(mktemp -d)
    mkfifo -m 600 "$pipes/end" || give_up "$here takes no named pipe in ${TMPDIR:-/tmp}"
    # shellcheck disable=SC2094 # a pipe: the first open only lets the other two not wait
    exec 7<>"$pipes/end" 8<"$pipes/end" 9>"$pipes/end" 7>&-
    rm -rf "$pipes"
    # In a session of its own: `scancel --full` signals a process group, and srun takes some signals for its end.
    (
        for name in NTASKS NPROCS NTASKS_PER_NODE NTASKS_PER_CORE NTASKS_PER_SOCKET NTASKS_PER_GPU TASKS_PER_NODE \
            TRES_PER_TASK GPUS GPUS_PER_NODE GPUS_PER_SOCKET GPUS_PER_TASK CPUS_PER_GPU MEM_PER_CPU MEM_PER_GPU \
            MEM_PER_NODE DISTRIBUTION HOSTFILE ARBITRARY_NODELIST THREADS_PER_CORE CPU_BIND RESV_PORTS EXCLUSIVE \
            EXACT NETWORK; do
            unset "SLURM_$name"
        done
        exec setsid "$srun" --quiet --overlap --mem=0 --gres=none -N "$nodes" -n "$nodes" --ntasks-per-node=1 \
            --cpus-per-task=1 --cpu-bind=none --mpi=none --wait=0 --kill-on-bad-exit=0 --job-name=names \
            --export=ALL --chdir=/ --input=all \
            /bin/sh "$node/holder.sh" "$folder" "$run" <&8 8<&- >>"$log" 2>&1 9>&-
    ) 9>&- &
    holders=$!
    exec 8<&-
}

end_holders() {
    [ -z "$witness" ] || { kill -s KILL "$witness" && wait "$witness"; } 2>/dev/null
    [ -n "$holders" ] || return 0
    (trap '''' PIPE && printf ''end\n'' >&9) 2>/dev/null
    exec 9>&-
    tries=0
    while alive "$holders" && [ "$tries" -lt 100 ]; do # 10 s
        tries=$((tries + 1))
        sleep 0.1
    done
    kill -s KILL "$holders" 2>/dev/null
    wait "$holders" 2>/dev/null
    holders=
    rm -rf "$node/holder-$run-"* "$node/ready-$run-"* "$node/etc-$run-"*
}

missing_peer() { # the first peer whose hostname is not in the view
    there=/dev/null
    [ ! -r "$view" ] || there=$view
    awk ''FILENAME == ARGV[1] { wanted[++n] = $2; id[n] = $1; next }
        !/^#/ { for (i = 2; i <= NF; i++) there[$i] = 1 }
        END { for (i = 1; i <= n; i++) if (!(wanted[i] in there)) { printf "peer %s (%s)", id[i], wanted[i]; exit } }'' \
        "$node/peers" "$there"
}

await_names() {
    left=$patience
    if [ "$time_limit" -gt 0 ] && [ $((time_limit - 30)) -lt "$left" ]; then left=$((time_limit - 30)); fi
    limit=$((started + left))
    holder_limit=$((started + 120))
    [ "$holder_limit" -le "$limit" ] || [ ! -s "$node/peers" ] || holder_limit=$limit
    told=
    while :; do
        [ -z "$caught" ] || give_up "ended by SIG$caught before the application started" $((128 + $(kill_number "$caught")))
        unheld='''' unready='''' broken=''''
        while IFS= read -r name; do
            if [ ! -e "$node/holder-$run-$name" ]; then
                unheld="$unheld $name"
            elif [ ! -e "$node/ready-$run-$name" ]; then
                unready="$unready $name"
            fi
            if grep -q ''^method=none$'' "$node/holder-$run-$name" 2>/dev/null; then
                broken="$broken${broken:+; }$name: $(sed -n ''s/^why=//p'' "$node/holder-$run-$name")"
            fi
        done <<EOF
$(awk ''!seen[$2]++ { print $2 }'' "$node/replicas-$run")
EOF
        if [ -n "$broken" ] && [ "$allow_env" != yes ]; then
            give_up "no method works that gives the job its names on $broken"
        fi
        [ -n "$unheld$unready" ] || return 0
        if [ -n "$unheld" ] && ! alive "$holders"; then
            give_up "the step that holds this job''s names did not start: $(tail -n 1 "$log" 2>/dev/null)"
        fi
        now=$(date +%s)
        if [ -n "$unheld" ] && [ "$now" -ge "$holder_limit" ]; then
            give_up "names did not come to$unheld in $((now - started)) seconds: $(tail -n 1 "$log" 2>/dev/null)"
        fi
        if [ -z "$unheld" ] && [ "$now" -ge "$limit" ]; then
            missing=$(missing_peer)
            [ -z "$missing" ] || give_up "$missing never started"
            give_up "the names of this job''s peers are not seen on$unready"
        fi
        if [ -z "$unheld" ] && [ -z "$told" ]; then
            told=$(missing_peer)
            [ -z "$told" ] || say "waiting for $told, at most $((limit - now)) seconds"
        fi
        sleep 0.2
    done
}

kill_number() {
    case $1 in HUP) echo 1 ;; INT) echo 2 ;; QUIT) echo 3 ;; USR1) echo 10 ;; USR2) echo 12 ;; *) echo 15 ;; esac
}

# --- The run ---------------------------------------------------------------------------------------------------------
rm -rf "$node/holder-$SLURM_JOB_ID-"* "$node/ready-$SLURM_JOB_ID-"* "$node/etc-$SLURM_JOB_ID-"* # of runs before a requeue
rm -f "$folder/exit${SLURM_ARRAY_TASK_ID:+-$SLURM_ARRAY_TASK_ID}.json" # it tells of a run before a requeue
list_replicas || give_up "the nodes of this job could not be listed: $(tail -n 1 "$log" 2>/dev/null)"
write_rank_files || give_up "the files of the ranks could not be written to $folder/ucloud"

srun=
rest=$PATH:
while [ -n "$rest" ]; do # the real one, not that of a job from which this one was submitted
    directory=${rest%%:*}
    rest=${rest#*:}
    if [ -x "$directory/srun" ] && [ ! -e "$directory/join.sh" ]; then
        srun=$directory/srun
        break
    fi
done

if [ "$names" = yes ]; then
    [ -n "$srun" ] || give_up "there is no srun in $PATH"
    start_holders
    await_names
    for file in "$node/holder-$run-"*; do
        method=$(sed -n ''s/^method=//p'' "$file")
        name=${file#"$node/holder-$run-"}
        if [ "$method" = none ]; then
            say "no method gives the job its names on $name ($(sed -n ''s/^why=//p'' "$file")); they are in \$UCLOUD_HOSTS_FILE only"
        else
            say "names on $name by $method"
        fi
    done
    export PATH="$node:$PATH"
    set -- /bin/sh "$node/join.sh" --run "$run"
    [ ! -x /bin/bash ] || set -- /bin/bash -p "$node/join.sh" --run "$run"
else
    set --
fi

start_witness
if [ "$replicate" = yes ] && [ "$nodes" -gt 1 ]; then
    pattern=$(printf %s "$folder" | sed ''s/%/%%/g'')
    set -- "$srun" -N "$nodes" -n "$nodes" --ntasks-per-node=1 --cpus-per-task="$cpus" --kill-on-bad-exit=1 \
        --open-mode=append --input=none -o "$pattern/stdout-%t.txt" -e "$pattern/stderr-%t.txt" "$@"
fi
setpriv --pdeathsig KILL "$@" /bin/bash "$folder/job.sbatch" payload </dev/null 9>&- &
payload=$!
wait_for_payload
record "$code"
# After TERM other processes of the application may still be cleaning up. Those that do not end, Slurm ends.
while [ "$cancelled" = yes ] && [ -n "$(list_application | head -n 1)" ]; do sleep 0.2; done
end_holders
exit "$code"
' AS BLOB));
INSERT INTO "shared" VALUES('9b66f7abd68bb532e030d3640d954983bc200b32baa4c2cdd6742dd4bfc75b7f',CAST('#!/bin/bash -p
# shellcheck shell=sh
# Runs a command where the job''s names resolve. Usage: join.sh [--run RUN] COMMAND...
# RUN is `SLURMID-RESTART`, for steps without the job''s environment. The command takes this process''s place, so its exit
# code, signals, and standard streams are its own. (bash -p reads no start-up file and hands every variable on; dash
# loses exported functions. The text is for any POSIX shell.)
# Entered a second time as `join.sh --at DIRECTORY COMMAND...`, in the namespace.

node=${0%/*}
folder=${node%/*}
tools=/usr/bin:/bin:/usr/sbin:/sbin # before what the application''s PATH may name so

say() { printf ''slurm-adapter: %s\n'' "$*" >&2; }

become() {
    case $1 in
        */*) ;;
        *) # like srun: what is not in PATH may be in the working directory
            if [ -x "./$1" ] && [ -f "./$1" ] && ! command -v "$1" >/dev/null 2>&1; then
                command=./$1
                shift
                set -- "$command" "$@"
            fi
            ;;
    esac
    exec "$@"
}

if [ "${1-}" = --at ]; then
    cd "$2" 2>/dev/null || say "$2 cannot be entered on this node; the command starts in /"
    unset OLDPWD
    shift 2
    become "$@"
fi

run=${SLURM_JOB_ID-}-${SLURM_RESTART_COUNT:-0}
state=
while :; do
    case ${1-} in
        --run) run=$2 ;;
        --state) state=$2 ;; # of a holder that is being tried
        *) break ;;
    esac
    shift 2
done
[ "$#" -gt 0 ] || { say "join.sh was given no command"; exit 2; }
[ "${run%-*}" = "${SLURM_JOB_ID-}" ] || become "$@" # a step in another job

here=${SLURMD_NODENAME:-$(PATH=$tools hostname)}
rank=
while read -r number name _; do
    if [ "$name" = "$here" ]; then rank=$number && break; fi
done 2>/dev/null <"$node/replicas-$run"
export UCLOUD_DIR="$folder/ucloud/${rank:-${SLURM_NODEID:-0}}"

if [ -z "$state" ]; then
    state=$node/holder-$run-$here
    tries=0
    while [ ! -e "$state" ] && [ "$tries" -lt 25 ]; do # 5 s
        tries=$((tries + 1))
        PATH=$tools sleep 0.2
    done
fi
method='''' pid='''' namespace='''' hosts='''' library=''''
while IFS= read -r line; do
    value=${line#*=}
    case $line in
        method=*) method=$value ;;
        pid=*) pid=$value ;;
        namespace=*) namespace=$value ;;
        hosts=*) hosts=$value ;;
        library=*) library=$value ;;
    esac
done 2>/dev/null <"$state"

case $method in
    '''')
        say "nothing holds this job''s names on $here; $1 runs without them"
        become "$@"
        ;;
    none)
        export UCLOUD_HOSTS_FILE="$hosts"
        become "$@"
        ;;
esac
export UCLOUD_HOSTS_FILE="$hosts"
if [ "$method" = nss_wrapper ]; then
    case " ${LD_PRELOAD-} " in
        *[\ :]"$library"[\ :]*) ;;
        *) LD_PRELOAD=$library${LD_PRELOAD:+:$LD_PRELOAD} ;;
    esac
    # Without the last it holds 100 names and addresses, and none of a larger file.
    export LD_PRELOAD NSS_WRAPPER_HOSTS="$hosts" NSS_WRAPPER_MAX_HOSTENTS=20000
    become "$@"
fi

if [ "$(PATH=$tools readlink /proc/self/ns/mnt)" = "$namespace" ]; then become "$@"; fi
if [ "$(PATH=$tools readlink "/proc/$pid/ns/mnt" 2>/dev/null)" != "$namespace" ]; then
    say "what held this job''s names on $here has ended; $1 runs without them"
    become "$@"
fi
shell=/bin/sh
set -- "$node/join.sh" --at "$PWD" "$@"
if [ -x /bin/bash ]; then shell=/bin/bash && set -- -p "$@"; fi
nsenter=$(PATH=$tools command -v nsenter)
setpriv=$(PATH=$tools command -v setpriv)
exec "$nsenter" -t "$pid" -U -m --preserve-credentials -- \
    "$setpriv" --inh-caps=-all --ambient-caps=-all -- "$shell" "$@"
' AS BLOB));
INSERT INTO "shared" VALUES('4d231b2d5040f62842cbec5a1bb511d79613c36a76be2ca8d54bf41a5fc838fc',CAST('#!/bin/sh
# One on each node of a job: makes the namespace in which the job''s names resolve, and keeps them true until the end.
# Usage: holder.sh FOLDER RUN. Ends when its standard input does, and by no signal but KILL: the names hold while the
# application cleans up.
# What it reads from files is data: it is never evaluated.
set -u
trap '''' HUP INT QUIT TERM USR1 USR2 ALRM PIPE
umask 077
PATH=/usr/bin:/bin:/usr/sbin:/sbin:$PATH

node=${0%/*}
folder=$1
run=$2
here=${SLURMD_NODENAME:-$(hostname)}
state=$node/holder-$run-$here
private=$node/etc-$run-$here # empty for all others: a file system of the namespace''s own is mounted there

job_id='''' view='''' methods='''' allow_env=no
while IFS= read -r line; do
    value=${line#*=}
    case $line in
        job_id=*) job_id=$value ;;
        view=*) view=$value ;;
        methods=*) methods=$value ;;
        allow_env=*) allow_env=$value ;;
    esac
done <"$node/settings"

# --- What is in force ------------------------------------------------------------------------------------------------
ended_groups() { # the comment lines of those peers whose exit record says that this very run has ended
    grep ''^# consumer .* run .* exit /'' "$private/view" | while IFS= read -r line; do
        record=${line#* exit }
        ended=${line#* run }
        ended=${ended%% *}
        [ -r "$record" ] || continue
        tr -d '' '' <"$record" 2>/dev/null |
            grep -q "\"slurm_id\":${ended%%.*},.*\"restart\":${ended##*.}[,}]" && printf ''%s\n'' "$line"
    done
}

compose() { # the node''s own file, the canary, the job''s replicas, the view
    if [ -r "$view" ] && cat "$view" >"$private/view.new" 2>/dev/null; then # else: the last one that was read
        mv -f "$private/view.new" "$private/view"
    fi
    ended_groups >"$private/ended"
    awk -v job="$job_id" -v canary="$canary" ''
        function mapping(address, name) { if (!((address, name) in said)) { said[address, name] = 1; print address, name } }
        FILENAME == ARGV[1] { print; next }
        FILENAME == ARGV[2] {
            if ($3 == "-") next
            if ($1 == 0) mapping($3, "job-" job)
            mapping($3, "job-" job "-" $1)
            next
        }
        FILENAME == ARGV[3] { ended[$0] = 1; next }
        /^#/ { dropped = ($0 in ended); next }
        NF >= 2 && !dropped { for (i = 2; i <= NF; i++) mapping($1, $i) }
        END { print "192.0.2.1", canary }
    '' "$private/own" "$node/replicas-$run" "$private/ended" "$private/view"
}

tell_readiness() { # once every peer has been in the view that this node sees
    [ ! -e "$node/ready-$run-$here" ] || return 0
    if [ -s "$node/peers" ]; then
        awk ''FILENAME == ARGV[1] { wanted[$2] = 1; next }
            !/^#/ { for (i = 2; i <= NF; i++) delete wanted[$i] }
            END { for (name in wanted) exit 1 }'' "$node/peers" "$private/view" || return 0
    fi
    : >"$node/ready-$run-$here"
}

# A new file is put in place whole, without a moment in which the names are missing. Mounts of files would pile up, as
# one beneath another cannot be taken away; so the whole of /etc lies under a mount of itself, the lower one, where this
# process stands. A change either covers it by an upper one that has the new file, or is made in the hidden lower one,
# from which the upper one is then lifted.
bind_hosts() { # FILE
    if [ "$swaps" = no ]; then
        mount -n --bind "$1" /etc/hosts
    elif [ "$upper" = no ]; then
        mount -n --rbind /etc "$private/etc" && umount -n -l "$private/etc/hosts" &&
            mount -n --bind "$1" "$private/etc/hosts" && mount -n --move "$private/etc" /etc || return 1
        upper=yes
    else
        umount -n -c -l /proc/self/cwd/hosts && mount -n -c --bind "$1" ./hosts && umount -n -l /etc || return 1
        upper=no
    fi
}

renew() {
    compose >"$private/new" && [ -s "$private/new" ] || return 1
    if ! cmp -s "$private/new" "$private/hosts"; then
        if [ "$method" = unshare ] || [ "$method" = bwrap ]; then
            count=$((count + 1))
            cp "$private/new" "$private/hosts.$count" && chmod 644 "$private/hosts.$count" || return 1
            if ! bind_hosts "$private/hosts.$count"; then
                swaps=no # whatever was left half done: on top of all
                mount -n --bind "$private/hosts.$count" /etc/hosts || return 1
            fi
            # Nothing can be mounted over a file that is gone: without swaps the one in force has to stay.
            [ "$count" -lt 3 ] || rm -f "$private/hosts.$((count - 2))"
        fi
        mv -f "$private/new" "$private/hosts"
    fi
    tell_readiness
}

set_up_namespace() {
    mount -n -t tmpfs -o mode=700,size=64m tmpfs "$private" || return 1
    mkdir "$private/etc" "$private/empty" || return 1
    for socket in /run/nscd /var/run/nscd; do # it would answer from its own /etc/hosts
        if [ -d "$socket" ] && [ ! -L "${socket%/*}" ]; then mount -n --bind "$private/empty" "$socket" || return 1; fi
    done
    if [ -d /etc/ucloud ] && [ -d "$folder/ucloud/$rank" ]; then
        mount -n --bind "$folder/ucloud/$rank" /etc/ucloud || return 1
    fi
}

keep_until_the_end() {
    while :; do
        pause=1.$(od -An -N2 -tu2 /dev/urandom | tr -d '' '')
        { said=$(timeout -s KILL "$pause" head -n 1); } 2>/dev/null
        case $?:$said in
            *:end) return 0 ;;
            0:*) # the batch script was killed: what it has left behind goes too
                [ "$method" = none ] || kill_others
                return 0
                ;;
            12[567]:*) sleep 1 ;; # there is no timeout, or no head
        esac
        renew 2>/dev/null
    done
}

kill_others() { # what has joined: the processes of this namespace, or those with the library''s setting
    own=$(readlink /proc/self/ns/mnt)
    for process in /proc/[0-9]*; do
        [ "${process#/proc/}" != "$$" ] || continue
        if [ "$method" = nss_wrapper ]; then
            grep -q -a -F "NSS_WRAPPER_HOSTS=$private/hosts" "$process/environ" || continue
            grep -q -a -F "SLURM_JOB_ID=${run%-*}" "$process/environ" || continue # not of a job submitted from this one
        else
            [ "$(readlink "$process/ns/mnt")" = "$own" ] || continue
        fi
        kill -s KILL "${process#/proc/}"
    done 2>/dev/null
}

# --- In the namespace ------------------------------------------------------------------------------------------------
if [ "${3-}" = inside ]; then
    method=$4
    canary=$5
    count=0 upper=no swaps=no library=''''
    rank=$(awk -v name="$here" ''$2 == name { print $1; exit }'' "$node/replicas-$run")
    case $method in
        unshare | bwrap) set_up_namespace || exit 1 ;;
        nss_wrapper)
            for library in /usr/lib/*/libnss_wrapper.so /usr/lib64/libnss_wrapper.so /usr/lib/libnss_wrapper.so \
                /lib/*/libnss_wrapper.so /lib64/libnss_wrapper.so; do
                [ ! -e "$library" ] || break
            done
            [ -e "$library" ] || { echo "libnss_wrapper.so is not installed"; exit 1; }
            ;;
    esac
    cp /etc/hosts "$private/own" && : >"$private/view" || exit 1
    if [ "$method" = unshare ] || [ "$method" = bwrap ]; then
        # The first file goes over the node''s own in the lower mount; from then on there is something to swap.
        renew || exit 1
        umount -n -l /etc/hosts
        if mount -n --rbind /etc /etc && cd / && cd /etc && mount -n --bind "$private/hosts.1" /etc/hosts; then
            swaps=yes
        else
            mount -n --bind "$private/hosts.1" /etc/hosts || exit 1
        fi
    else
        renew || exit 1
    fi
    {
        printf ''pid=%s\nnamespace=%s\nmethod=%s\n'' "$$" "$(readlink /proc/self/ns/mnt)" "$method"
        printf ''hosts=%s\nlibrary=%s\n'' "$private/hosts" "$library"
    } >"$state.new.part" && mv -f "$state.new.part" "$state.new" || exit 1
    keep_until_the_end
    exit 0
fi

# --- Outside: which method works? ------------------------------------------------------------------------------------
exec 3<&0 </dev/null
cd / || exit 1
canary=canary-$(od -An -N8 -tx1 /dev/urandom | tr -d '' \n'').invalid
failures=

works() { # the way of an application''s task: it joins, sees the canary, and holds no capability
    tries=0
    while [ ! -e "$state.new" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 150 ] && kill -0 "$inside" 2>/dev/null || return 1 # 15 s
        sleep 0.1
    done
    # shellcheck disable=SC2016 # the inner shell expands it
    answer=$(timeout -s KILL 20 /bin/sh "$node/join.sh" --run "$run" --state "$state.new" \
        /bin/sh -c ''getent hosts "$1" && grep "^CapEff:" /proc/self/status'' sh "$canary" 2>&1)
    case $answer in
        *192.0.2.1*CapEff:*[1-9a-f]*) echo "capabilities are left to the application" >>"$why" ;;
        *192.0.2.1*CapEff:*) return 0 ;;
        *) echo "a name that it was given does not resolve${answer:+: }$answer" >>"$why" ;;
    esac
    return 1
}

for method in $methods; do
    rm -rf "$private" "$state.new"
    mkdir -m 700 "$private" || exit 1
    why=$private/why
    case $method in
        unshare) set -- unshare -Um --map-current-user --keep-caps ;;
        bwrap) set -- bwrap --die-with-parent --unshare-user --cap-add ALL --dev-bind / / ;;
        nss_wrapper) set -- ;;
        *)
            failures="$failures${failures:+, }$method: not known"
            continue
            ;;
    esac
    "$@" /bin/sh "$0" "$folder" "$run" inside "$method" "$canary" <&3 >"$why" 2>&1 3<&- &
    inside=$!
    if works; then
        mv -f "$state.new" "$state"
        wait "$inside"
        rm -rf "$state" "$private" "$node/ready-$run-$here"
        exit 0
    fi
    kill -s KILL "$inside" 2>/dev/null
    wait "$inside" 2>/dev/null
    [ ! -e "$state.new" ] || sleep 2 # until nobody else reads from the standard input
    words=$(tail -n 1 "$why" | cut -c 1-200)
    failures="$failures${failures:+, }$method: ${words:-failed}"
done

rm -rf "$private" "$state.new"
mkdir -m 700 "$private" || exit 1
method=none
printf ''method=none\nhosts=%s\nwhy=%s\n'' "$view" "${failures:-no method is allowed}" >"$state.new" &&
    mv -f "$state.new" "$state"
if [ "$allow_env" = yes ]; then # the application looks names up in the view by itself: it waits for its peers as ever
    cp /etc/hosts "$private/own"
    : >"$private/view"
    renew
    keep_until_the_end <&3
fi
cat <&3 >/dev/null
rm -rf "$state" "$private" "$node/ready-$run-$here"
' AS BLOB));
INSERT INTO "shared" VALUES('cea942a3b9c57d68dec77966ecd734407f19aa39766870e9b79aacea954798b0',CAST('#!/bin/bash -p
# shellcheck shell=sh
# srun as the application finds it first in PATH: the same, with the job''s names in every task.
# A command line that it cannot read is run unchanged, and the job''s log says so. (bash -p reads no start-up file and
# hands every variable on; dash loses exported functions. The text is for any POSIX shell.)

node=${0%/*}
case $node in /*) ;; *) node=$(cd "$node" && pwd) ;; esac
run=${SLURM_JOB_ID-}-${SLURM_RESTART_COUNT:-0}

srun=
rest=${PATH-}:
while [ -n "$rest" ]; do # past this file, and past those of jobs from which this one was submitted
    directory=${rest%%:*}
    rest=${rest#*:}
    if [ -x "$directory/srun" ] && [ ! -e "$directory/join.sh" ]; then
        srun=$directory/srun
        break
    fi
done
if [ -z "$srun" ]; then
    echo "srun: not found in PATH" >&2
    exit 127
fi

unchanged() { # REASON KIND, each kind told once in a job, then the command line
    if mkdir "$node/said-$run-$2" 2>/dev/null; then
        echo "slurm-adapter: srun is run without the job''s names: $1" >&2
    fi
    shift 2
    exec "$srun" "$@"
}

# Options of srun from 20.11 to 26.05. Optional values are attached to their option: with it they are one word.
with_value=" accel-bind account acctg-freq bb bbf bcast-exclude begin chdir cluster cluster-constraint clusters comment
 constraint context core-spec cores-per-socket cpu-bind cpu-freq cpu_bind cpus-per-gpu cpus-per-task deadline delay-boot
 dependency distribution epilog error exclude export extra extra-node-info gid gpu-bind gpu-freq gpus gpus-per-node
 gpus-per-socket gpus-per-task gres gres-flags hint ignore-signals input job-name jobid licenses mail-type
 mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mem-update mincpus mpi msg-timeout network nodefile nodelist
 nodes ntasks ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket ntasks-per-tres open-mode output
 partition power prefer priority profile prolog qos relative reservation resources segment signal
 slurmd-debug sockets-per-node switches task-epilog task-prolog tasks-per-node thread-spec threads threads-per-core time
 time-min tmp treewidth tres-bind tres-per-task uid wait wckey "
without_value=" async compress consolidate-segments contiguous debugger-test disable-status exact exclusive
 external-launcher hold immediate interactive kill-on-bad-exit label nice no-allocate no-kill oom-kill-step overcommit
 overlap oversubscribe parsable preserve-env propagate pty quiet quit-on-interrupt reboot resv-ports send-libs
 spread-job spread-segments stepmgr test-only unbuffered use-min-nodes verbose wait-for-children whole x11 "
elsewhere=" bcast container container-id container-type het-group multi-prog pack-group " # another file starts, or in another root
talk=" autocomplete help usage version "

kind_of() { # a long option''s name, or a beginning of one that is all of one kind -> value, flag, elsewhere, talk, or ''''
    kind=
    for pair in "value:$with_value" "flag:$without_value" "elsewhere:$elsewhere" "talk:$talk"; do
        case ${pair#*:} in
            *[[:space:]]"$1"[[:space:]]*)
                kind=${pair%%:*}
                return
                ;;
        esac
    done
    for pair in "value:$with_value" "flag:$without_value" "elsewhere:$elsewhere" "talk:$talk"; do
        case ${pair#*:} in
            *[[:space:]]"$1"*)
                if [ -n "$kind" ]; then
                    kind=
                    return
                fi
                kind=${pair%%:*}
                ;;
        esac
    done
}

for word in "$@"; do
    [ "$word" != : ] || unchanged "it has several components" components "$@"
done
[ -z "${SLURM_BCAST-}${SLURM_CONTAINER-}${SLURM_CONTAINER_ID-}" ] || unchanged "a container or a copied program has files of its own" elsewhere "$@"

total=$#
count=0 # words of the command line that are options
value=no
for word in "$@"; do
    if [ "$value" = yes ]; then
        value=no
        count=$((count + 1))
        continue
    fi
    case $word in
        --)
            count=$((count + 1))
            break
            ;;
        --*)
            name=${word#--}
            name=${name%%=*}
            kind_of "$name"
            case $kind:$word in
                value:*=*) ;;
                value:*) value=yes ;;
                flag:*) ;;
                talk:*) exec "$srun" "$@" ;;
                elsewhere:*) unchanged "${word%%=*} starts something else than the command given, or in a container or another component of a heterogeneous job" elsewhere "$@" ;;
                *) unchanged "$word is not known" option "$@" ;;
            esac
            ;;
        -?*)
            letters=${word#-}
            while [ -n "$letters" ]; do
                rest=${letters#?}
                case $letters in
                    [AbBcCdDeFGiJLmMnNopqrStTwWx]*)
                        [ -n "$rest" ] || value=yes
                        rest=
                        ;;
                    [IkK]*) rest= ;; # what follows in the same word is its value
                    [EHlOQsuvXZ]*) ;;
                    [hV]*) exec "$srun" "$@" ;;
                    *) unchanged "-${letters%"$rest"} is not known" option "$@" ;;
                esac
                letters=$rest
            done
            ;;
        *) break ;;
    esac
    count=$((count + 1))
done
[ "$value" = no ] || unchanged "$word lacks its value" command "$@"
[ "$count" -lt "$total" ] || unchanged "there is no command" command "$@"

# The options are put back before what is inserted. (What is evaluated are numbers, never the words.)
number=0
while [ "$number" -lt "$count" ]; do
    number=$((number + 1))
    eval "option_$number=\${$number}"
done
shift "$count"
set -- "$node/join.sh" --run "$run" "$@"
if [ -x /bin/bash ]; then set -- /bin/bash -p "$@"; else set -- /bin/sh "$@"; fi
while [ "$number" -gt 0 ]; do
    eval "set -- \"\${option_$number}\" \"\$@\""
    number=$((number - 1))
done
exec "$srun" "$@"
' AS BLOB));
CREATE TABLE tokens (
            name TEXT PRIMARY KEY, digest TEXT NOT NULL UNIQUE, user TEXT NOT NULL, projects TEXT NOT NULL,
            created REAL NOT NULL, expires REAL
        ) STRICT;
CREATE TABLE updates (
            number INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
            time REAL NOT NULL, state TEXT, status TEXT NOT NULL, delivered REAL
        , due INTEGER NOT NULL DEFAULT 0, more TEXT NOT NULL DEFAULT '{}', sent INTEGER NOT NULL DEFAULT 0) STRICT;
INSERT INTO "updates" VALUES(1,'1',1000000000.0,NULL,'Your job has been submitted to the queue (Slurm ID: 1)',NULL,0,'{}',0);
INSERT INTO "updates" VALUES(2,'1',1000000001.0,'RUNNING','Your job is running',NULL,0,'{}',0);
INSERT INTO "updates" VALUES(3,'1',1000000002.0,'SUCCESS','Your job ended with exit code 0',NULL,0,'{}',0);
INSERT INTO "updates" VALUES(4,'2',1000000002.0,NULL,'Your job has been submitted to the queue (Slurm ID: 2)',NULL,0,'{}',0);
INSERT INTO "updates" VALUES(5,'2',1000000003.0,'RUNNING','Your job is running',NULL,0,'{}',0);
INSERT INTO "updates" VALUES(6,'3',1000000003.0,NULL,'Your job has been submitted to the queue (Slurm ID: 3)',NULL,0,'{}',0);
INSERT INTO "updates" VALUES(7,'4',1000000003.0,NULL,'Your job was handed to Slurm, whose answer was lost; it is being looked for (Socket timed out on send/recv operation)',NULL,0,'{}',0);
INSERT INTO "updates" VALUES(8,'6',1000000003.0,NULL,'Your job has been submitted to the queue (Slurm ID: 6)',NULL,0,'{}',0);
INSERT INTO "updates" VALUES(9,'3',1000000004.0,NULL,'Your job waits in the queue: Priority',NULL,0,'{}',0);
INSERT INTO "updates" VALUES(10,'6',1000000004.0,'RUNNING','Your job is running',NULL,0,'{}',0);
INSERT INTO "updates" VALUES(11,'5',1000000004.0,NULL,'Your job waits until Slurm has its peer 4 (db)',NULL,0,'{}',0);
INSERT INTO "updates" VALUES(12,'4101',1000000004.0,NULL,'Your job has been submitted to the queue (Slurm ID: 7)',NULL,1,'{}',0);
INSERT INTO "updates" VALUES(13,'4101',1000000005.0,'RUNNING','Your job is running',NULL,1,'{}',0);
INSERT INTO "updates" VALUES(14,'4101',1000000006.0,'SUCCESS','Your job ended with exit code 0',NULL,1,'{}',0);
INSERT INTO "updates" VALUES(15,'4102',1000000006.0,NULL,'Your job has been submitted to the queue (Slurm ID: 8)',NULL,1,'{}',0);
INSERT INTO "updates" VALUES(16,'4102',1000000007.0,'RUNNING','Your job is running',NULL,1,'{}',0);
INSERT INTO "updates" VALUES(17,'4103',1000000007.0,NULL,'Your job has been submitted to the queue (Slurm ID: 9)',NULL,1,'{}',0);
INSERT INTO "updates" VALUES(18,'4103',1000000008.0,'RUNNING','Your job is running',NULL,1,'{}',0);
INSERT INTO "updates" VALUES(19,'4104',1000000008.0,NULL,'Your job has been submitted to the queue (Slurm ID: 10)',NULL,1,'{}',0);
INSERT INTO "updates" VALUES(20,'4105',1000000008.0,NULL,'Your job has been submitted to the queue (Slurm ID: 11)',NULL,1,'{}',0);
INSERT INTO "updates" VALUES(21,'4104',1000000009.0,NULL,'Your job waits in the queue: Priority',NULL,1,'{}',0);
INSERT INTO "updates" VALUES(22,'4105',1000000009.0,'RUNNING','Your job is running',NULL,1,'{}',0);
INSERT INTO "updates" VALUES(23,'4105',1000000010.0,'IN_QUEUE','Your job waits in the queue to run again: BeginTime',NULL,1,'{}',0);
INSERT INTO "updates" VALUES(24,'4106',1000000010.0,NULL,'Your job was handed to Slurm, whose answer was lost; it is being looked for (Socket timed out on send/recv operation)',NULL,1,'{}',0);
INSERT INTO "updates" VALUES(25,'4108',1000000010.0,NULL,'Your job has been submitted to the queue (Slurm ID: 13)',NULL,1,'{}',0);
CREATE UNIQUE INDEX jobs_by_key ON jobs (origin, owner, coalesce(project, ''), key) WHERE key IS NOT NULL;
CREATE INDEX jobs_by_stage ON jobs (stage) WHERE stage <> 'ended';
CREATE INDEX updates_by_job ON updates (job_id);
CREATE INDEX jobs_by_end ON jobs (ended) WHERE stage = 'ended';
CREATE INDEX updates_due ON updates (number) WHERE due = 1;
CREATE INDEX jobs_by_owner ON jobs (owner, project, created);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('updates',25);
COMMIT;
PRAGMA user_version = 3;
