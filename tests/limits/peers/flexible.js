// npm's rate-limiter-flexible over Redis: RateLimiterRedis, a fixed window (it has no sliding one), on ioredis.
'use strict';

const { RateLimiterRedis } = require('rate-limiter-flexible');
const { Redis } = require('ioredis');

const [port, keys, before, decisions, quota, window, waiting] = process.argv.slice(2).map(Number);

async function main() {
  const client = new Redis({ port, host: '127.0.0.1' });
  const limiter = new RateLimiterRedis({ storeClient: client, points: quota, duration: window });

  // Asks so many times in all; gives back how many were admitted.
  async function askAll(count) {
    let left = count;
    let admitted = 0;
    const work = async () => {
      while (left > 0) {
        left -= 1;
        const number = left;
        try {
          await limiter.consume(`caller-${String(number % keys).padStart(5, '0')}`);
          admitted += 1;
        } catch (refused) {
          if (refused instanceof Error) throw refused;
        }
      }
    };
    await Promise.all(Array.from({ length: waiting }, work));
    return admitted;
  }

  await limiter.consume('warm');
  await askAll(before);
  console.log('ready');
  await new Promise((resolve) => process.stdin.once('data', resolve));
  const cpu = process.cpuUsage();
  const clock = process.hrtime.bigint();
  const admitted = await askAll(decisions);
  const seconds = Number(process.hrtime.bigint() - clock) / 1e9;
  const { user, system } = process.cpuUsage(cpu);
  console.log(JSON.stringify({ admitted, seconds, cpu: (user + system) / 1e6 }));
  process.exit(0);
}

main();
